"""Quantization of vocabulary tables: rounded to nearest, a scale for each group of a row.

    planes    w = step * (q - zero), fitted as dualbinary/fitting does it; those of a checkpoint are taken as they are
    blocks    w = s * c,  c in -2 .. 1 (2 bits), -8 .. 7 (4 bits), or -136 .. 119 (8 bits: c = 16 * high + low with both
              in -8 .. 7)

Codes of blocks are stored with half their range added, the zero point that GatherBlockQuantized and MatMulNBits assume.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch

from dualbinary import OP, InputError
from dualbinary.contract.layout import CODES
from dualbinary.contract.scale_codes import BFLOAT16
from dualbinary.contract.weight import PlaneWeight
from dualbinary.errors import OptionError
from dualbinary.fitting.closed_form import fit
from exporter.graph.export_graph import VocabularyTable
from exporter.graph.values import static_shape

__all__ = ["dequantize_table", "quantize_table", "require_finite"]

_MAX_CODE = {2: 1, 4: 7, 8: 119}  # the largest that both signs have
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
        place = slice(begin, begin + len(rows))
        for array, index, part in zip(arrays, _indices(table, place), _quantize_rows(values, table), strict=True):
            array[index] = part
        begin = place.stop
    return arrays


def dequantize_table(table: VocabularyTable, arrays: list[np.ndarray], rows: slice = slice(None)) -> np.ndarray:
    """`rows` of the float32 table [V, H] that the stored arrays stand for; beside them, `_ROWS` are held unpacked."""
    begin, end, _ = rows.indices(table.rows)
    values = np.empty((end - begin, table.width), np.float32)
    for first in range(begin, end, _ROWS):
        last = min(first + _ROWS, end)
        values[first - begin : last - begin] = _dequantize_rows(table, arrays, slice(first, last))
    return values


def _dequantize_rows(table: VocabularyTable, arrays: list[np.ndarray], rows: slice) -> np.ndarray:
    arrays = [array[index] for array, index in zip(arrays, _indices(table, rows), strict=True)]
    if table.plane_format is not None:
        planes, scales = arrays
        scales = scales.view(BFLOAT16) if scales.dtype.name == "bfloat16" else scales
        return PlaneWeight(planes, scales, table.width, table.plane_format).dequantize().astype(np.float32)
    if table.group_size == 0:
        return arrays[0].astype(np.float32)
    *codes, scales = arrays
    bits = min(table.bits, 4)
    values = np.zeros((), np.float32)
    for packed in codes:
        parts = packed[..., None] >> np.arange(0, 8, bits, dtype=np.uint8) & (1 << bits) - 1
        values = values * 16 + (parts.reshape(*packed.shape[:-1], -1).astype(np.float32) - (1 << (bits - 1)))
    return (values * scales.astype(np.float32)).reshape(len(values), -1)


def require_finite(values: np.ndarray, parameter: str) -> np.ndarray:
    """`values`; InputError, naming `parameter`, if one of them is not finite in the type it is stored in."""
    if not np.isfinite(values).all():
        raise InputError(f"{parameter}: holds a value that is not finite as {values.dtype}")
    return values


def _indices(table: VocabularyTable, rows: slice) -> list[tuple[slice, ...]]:
    """The place of `rows` in each array of the table: planes, but not codes, and scales have a dimension before it."""
    if table.plane_format is None:
        return [(rows,)] * len(table.values)
    later = (slice(None), rows)
    return [(rows,) if table.plane_format.layout == CODES else later, later]


def _quantize_rows(values: np.ndarray, table: VocabularyTable) -> list[np.ndarray]:
    if table.group_size == 0:
        return [values]
    if table.plane_format is None:
        return _quantize_blocks(values, table)
    _refuse_large_scales(np.abs(values).max(initial=0), 2 / ((1 << table.bits) - 1), table)
    form = table.plane_format
    weight = fit(values, replace(form, layout=OP.layouts[0].name), name=table.parameter).weight.to_layout(form.layout)
    return [weight.planes, weight.scales]


def _quantize_blocks(rows: np.ndarray, table: VocabularyTable) -> list[np.ndarray]:
    blocks = rows.reshape(len(rows), -1, table.group_size)  # [rows, H/block_size, block_size]
    limit = _MAX_CODE[table.bits]
    largest = np.abs(blocks).max(axis=2, keepdims=True)
    _refuse_large_scales(largest.max(initial=0), 1 / limit, table)
    scales = (largest / limit).astype(np.float16)
    # A scale that rounds to 0 would divide by zero; its block becomes zeros.
    inverse = np.divide(1, scales, where=scales > 0, out=np.zeros_like(scales, np.float32), dtype=np.float32)
    codes = np.clip(np.rint(blocks * inverse), -limit - 1, limit).astype(np.int16)
    if table.bits <= 4:
        return [_pack(codes, table.bits), scales]
    low = (codes + 8) % 16 - 8
    high = (codes - low) // 16
    return [_pack(high, 4), _pack(low, 4), scales]


def _refuse_large_scales(largest: float, share: float, table: VocabularyTable) -> None:
    """Raise OptionError where a scale, `share` of the largest value, is beyond float16."""
    if largest * share > np.finfo(np.float16).max:
        expected = f"32 for {table.parameter}, with values up to {largest:.3g}"
        raise OptionError("embedding_bits", expected, table.bits)


def _pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes of `bits` bits in bytes, low bits first."""
    per_byte = 8 // bits
    unsigned = (codes + (1 << (bits - 1))).astype(np.uint8).reshape(*codes.shape[:-1], -1, per_byte)
    return np.bitwise_or.reduce(unsigned << (bits * np.arange(per_byte, dtype=np.uint8)), axis=-1)
