"""Gemma's quantization-aware models: integers of 2, 4 or 8 bits with a scale for each output; embeddings too.

    weight               uint8 [N, K/4] or [N, K/2], the lowest bits first, less 2 or 8; or int8 [N, K]
    weight_scale         float32 [N, 1]
    embedding_quantized  the same for a table, with embedding_scale float32 [rows, blocks]

Which width a module has, regular expressions of config.json say. The model was trained with inputs and outputs rounded
to eight bits in fixed ranges (input_activation_scale, output_activation_scale); these are no part of the weights.

Source: transformers 5.23, integrations/gemma_quant.py and quantizers/quantizer_gemma.py.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dualbinary import InputError
from importer.model import LowBitModel, Numbers, PackedWeight
from importer.readers.directory import Directory, group_size_of, integer, signed
from importer.readers.gptq import pattern
from importer.readers.words import dense

__all__ = ["open_gemma", "recognises"]

_WHERE = "quantization_config"
_WIDTHS = (2, 4, 8)


def recognises(_: Path, config: dict[str, Any]) -> bool:
    """Whether config.json says Gemma's quantization."""
    block = config.get("quantization_config")
    return isinstance(block, dict) and block.get("quant_method") == "gemma"


def open_gemma(path: Path, config: dict[str, Any]) -> LowBitModel:
    """The reader's `open`."""
    block = config[_WHERE]
    default, notes = integer(block, "num_bits", _WHERE, 4), []
    overrides = _overrides(block)
    directory = Directory.open(path, config)
    if directory.drop(_unread(config)):
        notes.append("layers that share keys and values have weights of their own for them, which no model reads")
    weights = {}
    for parts in (("weight", "weight_scale"), ("embedding_quantized", "embedding_scale")):
        for module in directory.modules(parts[1]):
            if f"{module}.{parts[1]}" in directory.used:
                continue
            bits = _bits(overrides, module, default)
            weights[module] = _weight(directory, module, bits, *parts)
    ranges = directory.drop(r".*\.(input|output)_activation_scale")  # 0 where there is none
    if any(directory.array(name).any() for name in ranges):
        notes.append("inputs and outputs of linear layers were rounded to 8 bits in fixed ranges; here they are not")
    if directory.drop(r".*\.[kv]_cache_scale"):
        notes.append("the cache of keys and values was quantized; here it is not")
    return directory.model("gemma", weights, notes)


def _unread(config: Mapping[str, Any]) -> str:
    """A pattern of the tensors of Gemma 4 that transformers leaves unread: keys and values of layers that have none."""
    layers, shared = (config.get(key) or 0 for key in ("num_hidden_layers", "num_kv_shared_layers"))
    numbers = "|".join(map(str, range(layers - shared, layers))) or "none"
    return rf".*\blayers\.({numbers})\.self_attn\.(k_proj|v_proj|k_norm|v_norm)\..*"


def _overrides(block: Mapping[str, Any]) -> list[tuple[re.Pattern[str], Mapping[str, Any]]]:
    where = f"{_WHERE}.module_quant_configs"
    configured = block.get("module_quant_configs") or {}
    if not isinstance(configured, dict) or not all(isinstance(entry, dict) for entry in configured.values()):
        raise InputError(f"{where}: expected an object of objects")
    return [(pattern(key, where), entry) for key, entry in configured.items()]


def _bits(overrides: list[tuple[re.Pattern[str], Mapping[str, Any]]], module: str, default: int) -> int:
    """The width of a module: of the pattern that matches first in its name, then of the first in the list."""
    found = [(match.start(), i) for i, (it, _) in enumerate(overrides) if (match := it.search(module)) is not None]
    bits = integer(overrides[min(found)[1]][1], "num_bits", _WHERE, default) if found else default
    if bits not in _WIDTHS:
        raise InputError(f"{_WHERE}.num_bits: expected 2, 4 or 8 for {module}, got {bits}")
    return bits


def _weight(directory: Directory, module: str, bits: int, integers: str, scales: str) -> PackedWeight:
    kind = "I8" if bits == 8 else "U8"
    N, stored = directory.take(f"{module}.{integers}", (kind,), (None, None), f"{bits} bits, as config.json says")
    K = stored * (8 // bits)
    columns = None if integers == "embedding_quantized" else 1
    _, groups = directory.take(f"{module}.{scales}", ("F32",), (N, columns))
    if K % groups:
        raise InputError(f"{module}.{scales}: {groups} blocks do not divide {K} values of a row")
    G = group_size_of(module, [K // groups], K, groups)
    names = [f"{module}.{integers}", f"{module}.{scales}"]
    size = "one scale a row" if G == -1 else f"groups of {G}"
    read = _reading(directory, module, bits, K, integers, scales)
    bits_per_weight = directory.bits_per_weight(names, N * K)
    return PackedWeight(f"gemma, {bits} bits, {size}", N, K, bits, G, bits_per_weight, read)


def _reading(directory: Directory, module: str, bits: int, K: int, integers: str, scales: str) -> Callable[[], Numbers]:
    def read() -> Numbers:
        name = f"{module}.{integers}"
        stored = directory.array(name)
        q = signed(name, stored, bits) if bits == 8 else dense(stored, bits, K)
        return Numbers(q, directory.array(f"{module}.{scales}"), float(1 << (bits - 1)))

    return read
