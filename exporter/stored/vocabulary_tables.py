"""Block quantization of vocabulary tables: symmetric, rounded to nearest, one float16 scale for each block of a row.

    w = s * c,  c in -8 .. 7 (4 bits), or -136 .. 119 (8 bits: c = 16 * high + low with both halves in -8 .. 7)

Codes are stored with 8 added to each half, the zero point that GatherBlockQuantized and MatMulNBits assume.
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch

from dualbinary import InputError
from exporter.graph.passes.vocabulary import Table
from exporter.graph.values import static_shape

__all__ = ["dequantized_table", "finite", "quantized_table"]

_LARGEST = {4: 7, 8: 119}  # the largest code that both signs have
_ROWS = 4096  # converted at a time, to bound memory


class _Parameters(Protocol):
    """What is asked of `exporter.source.parameters.Weights`."""

    def read_rows(self, parameter: str, step: int, dtype: torch.dtype) -> Iterator[torch.Tensor]: ...


def quantized_table(table: Table, weights: _Parameters) -> list[np.ndarray]:
    """The arrays of `table` in the order codes, scales. Raises InputError where a scale does not fit float16.

    A table of a large vocabulary is the largest tensor of its model: beside the result only `_ROWS` rows are held.
    """
    values = (*table.codes, table.scales) if table.scales is not None else table.codes
    arrays = [np.empty(static_shape(value) or (), value.dtype.numpy()) for value in values if value.dtype is not None]
    dtype = torch.float16 if table.bits == 16 else torch.float32
    begin = 0
    for rows in weights.read_rows(table.parameter, _ROWS, dtype):
        parts = [finite(rows.numpy(), table.parameter)] if table.scales is None else _blocks(rows.numpy(), table)
        for array, part in zip(arrays, parts, strict=True):
            array[begin : begin + len(rows)] = part
        begin += len(rows)
    return arrays


def dequantized_table(table: Table, arrays: list[np.ndarray]) -> np.ndarray:
    """The float32 table [V, H] that the stored arrays stand for."""
    if table.scales is None:
        return arrays[0].astype(np.float32)
    *halves, scales = arrays
    code = np.zeros((), np.float32)
    for half in halves:
        nibbles = np.stack([half & 15, half >> 4], axis=-1).reshape(*half.shape[:-1], -1)
        code = code * 16 + (nibbles.astype(np.float32) - 8)
    return (code * scales.astype(np.float32)).reshape(len(code), -1)


def finite(values: np.ndarray, parameter: str) -> np.ndarray:
    """`values`; InputError, naming `parameter`, if one of them is not finite in the type it is stored in."""
    if not np.isfinite(values).all():
        raise InputError(f"{parameter}: holds a value that is not finite as {values.dtype}")
    return values


def _blocks(rows: np.ndarray, table: Table) -> list[np.ndarray]:
    blocks = finite(rows, table.parameter).reshape(len(rows), -1, table.block_size)  # [rows, H/block, block]
    largest = np.abs(blocks).max(axis=2, keepdims=True)
    exact = largest / _LARGEST[table.bits]
    if exact.max(initial=0) > np.finfo(np.float16).max:
        raise InputError(f"{table.parameter}: values up to {largest.max():.3g} need --embedding-bits 32")
    scales = exact.astype(np.float16)
    # A scale rounded down to nothing would divide by zero; its block is that of zeros.
    inverse = np.divide(1, scales, where=scales > 0, out=np.zeros_like(scales, np.float32), dtype=np.float32)
    limit = _LARGEST[table.bits]
    codes = np.clip(np.rint(blocks * inverse), -limit - 1, limit).astype(np.int16)
    if table.bits == 4:
        return [_packed(codes), scales]
    low = (codes + 8) % 16 - 8
    high = (codes - low) // 16
    return [_packed(high), _packed(low), scales]


def _packed(codes: np.ndarray) -> np.ndarray:
    nibbles = (codes + 8).astype(np.uint8)
    return nibbles[..., 0::2] | nibbles[..., 1::2] << 4
