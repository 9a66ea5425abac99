"""Tiny models folded with a Walsh-Hadamard transform of their inputs, and GGUF files of them.

The weights of a folded model are ternary, and those of the model that it stands for are they, turned back: so a file
holds the one exactly, and transformers runs the other.
"""

import copy
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any
from unittest import mock

import gguf
import numpy as np
import torch

from dualbinary.contract.rotation import Rotation
from tests.support.gguf_files import stored_tensors, tiny_model, write_tiny_model

PREFIX = "prism.hadamard."
TABLE, HEAD = "token_embd.weight", "output.weight"
FOLDABLE = re.compile(r"blk\.\d+\.(attn_(q|k|v|qkv|gate|output)|ffn_(gate|up|down)|ssm_out)\.weight")
BLOCKS = {"PQ2_0": (142, 128, 34), "PTQ1_0": (143, 128, 28)}
"""Types of a fork: their numbers, weights and bytes of a block."""


def pq2_0(q: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Blocks uint8 [N, K/128 * 34] of numbers 0 to 2 [N, K] and steps float16 [N, K/128], packed one by one."""
    rows = []
    for numbers, scales in zip(q.reshape(len(q), -1, 128), steps, strict=True):
        row = b""
        for block, scale in zip(numbers, scales, strict=True):
            data = bytearray(32)
            for j, number in enumerate(block):
                data[j // 4] |= int(number) << (2 * (j % 4))
            row += np.float16(scale).tobytes() + bytes(data)
        rows.append(np.frombuffer(row, np.uint8))
    return np.stack(rows)


def ptq1_0(q: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Blocks uint8 [N, K/128 * 28]: five numbers in a byte of qs, four in one of qh, the step behind."""
    rows = []
    for numbers, scales in zip(q.reshape(len(q), -1, 128), steps, strict=True):
        row = b""
        for block, scale in zip(numbers, scales, strict=True):
            data = [_base3(block[m + 16 * np.arange(5)]) for m in range(16)]
            data += [_base3(block[80 + m + 8 * np.arange(5)]) for m in range(8)]
            data += [_base3(block[120 + h + 2 * np.arange(4)]) for h in range(2)]
            row += bytes(data) + np.float16(scale).tobytes()
        rows.append(np.frombuffer(row, np.uint8))
    return np.stack(rows)


def _base3(digits: np.ndarray) -> int:
    """The byte that says up to five digits, the first the most significant: the fraction of 243, in 256ths, up."""
    value = 0
    for digit in [*digits, 0][:5]:
        value = 3 * value + int(digit)
    return -(-value * 256 // 243)


PACKERS = {"PQ2_0": pq2_0, "PTQ1_0": ptq1_0}


def signs_of(K: int) -> np.ndarray:
    """The signs int8 [K] of inputs so many."""
    return np.random.default_rng(K).choice(np.array([-1, 1], np.int8), K)


def folded_tensors(name: str, block_size: int, kind: str, tables: bool) -> tuple[dict[str, Any], Any, list[str]]:
    """Tensors of the file of a folded model, the model that it stands for, and the names of its folded weights.

    With `tables` the table of tokens and an untied head are folded, too.
    """
    model = tiny_model(name)
    number = BLOCKS[kind][0]
    stored: dict[str, Any] = {}
    folded = []
    plain: dict[str, np.ndarray] = {}
    for tensor, values in stored_tensors(model).items():
        if not (FOLDABLE.fullmatch(tensor) or (tables and tensor in (TABLE, HEAD))):
            continue
        rng = np.random.default_rng(len(folded))
        N, K = values.shape
        q = rng.integers(0, 3, (N, K))
        steps = rng.uniform(0.05, 0.15, (N, K // 128)).astype(np.float16)
        ternary = (q - 1.0) * steps.astype(np.float64).repeat(128, axis=1)
        plain[tensor] = Rotation(block_size, signs_of(K)).unrotated(ternary)
        stored[tensor] = (number, PACKERS[kind](q, steps))
        folded.append(tensor)
    _set_weights(model, plain)
    return stored, model, folded


def _set_weights(model: Any, folded: Mapping[str, np.ndarray]) -> None:
    """Give a model the values of matrices of its file: where each number goes is seen on a model of numbered weights.

    The output of linear attention is folded in transformers' order of its inputs, and so has no order of its own.
    """
    numbered = copy.deepcopy(model)
    count = 0
    with torch.no_grad():
        for value in numbered.parameters():
            value.copy_(torch.arange(count, count + value.numel()).view_as(value))
            count += value.numel()
    assert count < 1 << 24  # float32 holds the numbers
    with np.errstate(over="ignore"):  # numbers are no decays
        places = stored_tensors(numbered)
    parameters = list(model.parameters())
    flat = torch.cat([value.detach().reshape(-1) for value in parameters])
    for tensor, values in folded.items():
        place = np.sort(places[tensor], axis=1) if ".ssm_out." in tensor else places[tensor]
        flat[torch.from_numpy(place.astype(np.int64))] = torch.from_numpy(values)
    with torch.no_grad():
        for value, part in zip(parameters, flat.split([value.numel() for value in parameters]), strict=True):
            value.copy_(part.view_as(value))
        model.tie_weights()


def declaration(
    folded: Iterable[str], widths: Iterable[int], block_size: int, *, explicit: bool = True, tied: bool = False
) -> dict[str, Any]:
    """The metadata of a folded model."""
    folded = list(folded)
    widths = sorted(set(widths))
    signs = [int(sign) for width in widths for sign in signs_of(width)]
    values: dict[str, Any] = {
        "version": 2 if tied else 1,
        "block_size": block_size,
        "transform": "normalized-sylvester-walsh-hadamard",
        "axis": "input-last-dimension",
        "sign_mode": "explicit" if explicit else "identity",
        "sign_widths": widths if explicit else None,
        "sign_values": signs if explicit else None,
        "weight_names": [name for name in folded if name != TABLE],
        "inverse_weight_names": [TABLE] if TABLE in folded else None,
        "gdn_v_grouped": True,
        "tied_output": True if tied else None,
    }
    return {f"{PREFIX}{key}": value for key, value in values.items()}


def write_folded_model(
    path: Path,
    name: str = "llama, folded",
    *,
    block_size: int = 128,
    kind: str = "PQ2_0",
    tables: bool = True,
    keys: Mapping[str, Any] = MappingProxyType({}),
    tensors: Mapping[str, Any] = MappingProxyType({}),
) -> Any:
    """Write the file of a folded model to `path`; returns the model that it stands for, in transformers."""
    stored, model, folded = folded_tensors(name, block_size, kind, tables)
    widths = [model.config.hidden_size, model.config.intermediate_size]
    tied = tables and model.config.tie_word_embeddings
    own = declaration(folded, widths, block_size, tied=tied) | dict(keys)
    sizes: Any = {number: block for number, *block in BLOCKS.values()}  # as the library wants them to write them
    with mock.patch.dict(gguf.GGML_QUANT_SIZES, sizes):
        write_tiny_model(path, name, keys=own, tensors=stored | dict(tensors))
    return model
