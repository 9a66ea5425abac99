"""AutoRound: the words of GPTQ or AWQ, with zero points as `packing_format` says, and it alone.

    contains awq         AWQ's words
    contains gptqmodel   GPTQ's words with g_idx, zero points as they are
    contains gptq        GPTQ's words, zero points less one, field by field: a stored 2^b - 1 means 2^b
    anything else        GPTQ's words, zero points as they are

Source: AutoRound 0.16.1, auto_round/export/export_to_autoround/export.py, auto_round_extension/torch/qlinear_torch.py
and qlinear_torch_zp.py, auto_round/inference/utils.py for extra_config.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dualbinary import InputError
from importer.model import LowBitModel
from importer.readers.awq import awq_weights
from importer.readers.directory import Directory, integer
from importer.readers.gptq import layers_of, packed_weight, pattern, refuse_transforms, settle

__all__ = ["open_auto_round", "recognises"]

_WHERE = "quantization_config"
_INTEGERS = ("int", "int_sym", "int_asym")
_PLAIN = 16  # bits of what is not quantized


def recognises(_: Path, config: dict[str, Any]) -> bool:
    """Whether config.json says AutoRound."""
    block = config.get("quantization_config")
    return isinstance(block, dict) and block.get("quant_method") in ("auto-round", "intel/auto-round")


def open_auto_round(path: Path, config: dict[str, Any]) -> LowBitModel:
    """The reader's `open`."""
    block = config[_WHERE]
    kind = block.get("data_type", "int")
    if kind not in _INTEGERS:
        raise InputError(
            f"{_WHERE}.data_type: expected {', '.join(_INTEGERS)}, got {kind!r}; its levels are not even, give the "
            "full-precision model"
        )
    if (block.get("act_bits") or _PLAIN) < _PLAIN and not block.get("act_dynamic", True):
        raise InputError(f"{_WHERE}.act_bits: inputs in fixed ranges belong to the model; give one of weights alone")
    refuse_transforms(block)
    packing = str(block.get("packing_format") or block.get("backend") or "auto_round:auto_gptq").lower()
    if not any(name in packing for name in ("awq", "gptq", "auto_round")):
        raise InputError(f"{_WHERE}.packing_format: expected one of AWQ or GPTQ, got {packing[:80]!a}")
    directory = Directory.open(path, config)
    said = _Said(block, {name.rpartition(".")[0] for name in directory.stored})
    notes = said.notes()
    if "awq" in packing:
        return directory.model("auto-round", awq_weights(directory, said, f"auto-round as {packing}"), notes)
    plain = "gptqmodel" in packing or "gptq" not in packing
    label, other = ("v2", "v1 by field") if plain else ("v1 by field", "v2")
    layers = layers_of(directory, said)
    convention, found = settle(directory, layers, label, other)
    form = f"auto-round as {packing}"
    weights = {layer.module: packed_weight(directory, layer, convention, form) for layer in layers}
    return directory.model("auto-round", weights, [*found, *notes])


class _Said:
    """The widths and group sizes of a module: of its own entry in extra_config, of patterns there, or the default."""

    def __init__(self, block: Mapping[str, Any], modules: set[str]) -> None:
        self.block = block
        self.extra = block.get("extra_config") or {}
        if not isinstance(self.extra, dict) or not all(isinstance(entry, dict) for entry in self.extra.values()):
            raise InputError(f"{_WHERE}.extra_config: expected an object of objects")
        self.patterns = {key: pattern(key, f"{_WHERE}.extra_config") for key in self.extra if key not in modules}
        self.bits, self.size = integer(block, "bits", _WHERE), integer(block, "group_size", _WHERE)

    def __call__(self, module: str) -> tuple[list[int], list[int]]:
        entry, where = self.extra.get(module), f"{_WHERE}.extra_config.{module}"
        if entry is None:
            key = next((key for key, expression in self.patterns.items() if expression.search(module)), None)
            entry, where = (None, where) if key is None else (self.extra[key], f"{_WHERE}.extra_config.{key}")
        entry = {} if entry is None else {key: value for key, value in entry.items() if value is not None}
        kind = entry.get("data_type", "int")
        if kind not in _INTEGERS:
            raise InputError(f"{where}.data_type: expected {', '.join(_INTEGERS)}, got {kind!r}")
        return [integer(entry, "bits", where, self.bits)], [integer(entry, "group_size", where, self.size)]

    def notes(self) -> list[str]:
        """What to say of inputs that were quantized too."""
        bits = self.block.get("act_bits") or _PLAIN
        return [f"inputs were quantized to {bits} bits at every call; here they are not"] if bits < _PLAIN else []
