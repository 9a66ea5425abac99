"""Quantization of vocabulary tables: symmetric, rounded to nearest, one float16 scale per quantization block of a row.

    w = s * c,  c in -8 .. 7 (4 bits), or -136 .. 119 (8 bits: c = 16 * high + low with both in -8 .. 7)

Codes are stored as nibbles with 8 added, the zero point that GatherBlockQuantized and MatMulNBits assume.
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch

from dualbinary import InputError
from dualbinary.errors import OptionError
from exporter.graph.export_graph import VocabularyTable
from exporter.graph.values import static_shape

__all__ = ["dequantize_table", "quantize_table", "require_finite"]

_MAX_CODE = {4: 7, 8: 119}  # the largest that both signs have
_ROWS = 4096  # converted at a time, to bound memory


class _Parameters(Protocol):
    """The part of `exporter.graph.parameters.Parameters` that is used here."""

    def read_rows(self, parameter: str, step: int, dtype: torch.dtype) -> Iterator[torch.Tensor]: ...


def quantize_table(table: VocabularyTable, parameters: _Parameters) -> list[np.ndarray]:
    """The arrays of `table.values`. Raises OptionError where a scale does not fit float16.

    A table of a large vocabulary is the largest tensor of its model: beside the result only `_ROWS` rows are held.
    """
    arrays = [np.empty(static_shape(v) or (), v.dtype.numpy()) for v in table.values if v.dtype is not None]
    dtype = torch.float16 if table.bits == 16 else torch.float32
    begin = 0
    for rows in parameters.read_rows(table.parameter, _ROWS, dtype):
        values = require_finite(rows.numpy(), table.parameter)
        parts = [values] if table.scales is None else _quantize_rows(values, table)
        for array, part in zip(arrays, parts, strict=True):
            array[begin : begin + len(rows)] = part
        begin += len(rows)
    return arrays


def dequantize_table(table: VocabularyTable, arrays: list[np.ndarray]) -> np.ndarray:
    """The float32 table [V, H] that the stored arrays stand for."""
    if table.scales is None:
        return arrays[0].astype(np.float32)
    *codes, scales = arrays
    values = np.zeros((), np.float32)
    for packed in codes:
        nibbles = np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)
        values = values * 16 + (nibbles.astype(np.float32) - 8)
    return (values * scales.astype(np.float32)).reshape(len(values), -1)


def require_finite(values: np.ndarray, parameter: str) -> np.ndarray:
    """`values`; InputError, naming `parameter`, if one of them is not finite in the type it is stored in."""
    if not np.isfinite(values).all():
        raise InputError(f"{parameter}: holds a value that is not finite as {values.dtype}")
    return values


def _quantize_rows(rows: np.ndarray, table: VocabularyTable) -> list[np.ndarray]:
    blocks = rows.reshape(len(rows), -1, table.block_size)  # [rows, H/block_size, block_size]
    limit = _MAX_CODE[table.bits]
    largest = np.abs(blocks).max(axis=2, keepdims=True)
    exact = largest / limit
    if exact.max(initial=0) > np.finfo(np.float16).max:
        raise OptionError(
            "embedding_bits", f"32 for {table.parameter}, with values up to {largest.max():.3g}", table.bits
        )
    scales = exact.astype(np.float16)
    # A scale that rounds to 0 would divide by zero; its block becomes zeros.
    inverse = np.divide(1, scales, where=scales > 0, out=np.zeros_like(scales, np.float32), dtype=np.float32)
    codes = np.clip(np.rint(blocks * inverse), -limit - 1, limit).astype(np.int16)
    if table.bits == 4:
        return [_pack_nibbles(codes), scales]
    low = (codes + 8) % 16 - 8
    high = (codes - low) // 16
    return [_pack_nibbles(high), _pack_nibbles(low), scales]


def _pack_nibbles(codes: np.ndarray) -> np.ndarray:
    nibbles = (codes + 8).astype(np.uint8)
    return nibbles[..., 0::2] | nibbles[..., 1::2] << 4
