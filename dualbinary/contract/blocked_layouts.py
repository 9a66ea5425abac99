"""The stored layouts of blocks: what the table kernels of one instruction set read, as they read it.

    planes   uint8 [B, bytes of a block]    B = N / 32 rounded up; outputs past N are zero
    scales   [C, N, 0]                      empty: their number of rows and their type; the values are in the blocks

A block of 32 outputs is one forward stream:

    block    (scales of type uint8 only: factors [C, 32] of float16, rounded up to 64 bytes)  group 0  group 1  ...
    group    scales [C, 32] of their type; uint8 as code - 128; (zero points [32], a byte each, where every group has
             one); rounded up to 64 bytes                                            segment 0  segment 1  ...
    segment  of the largest multiple of 32 inputs that divides G and is at most 128: lines [P, inputs / 32]
    line     128 bytes: 32 outputs times 32 inputs of a plane, a nibble for four inputs

Groups of 16 inputs go in pairs that are stored as one group of 32: scales [2, C, 32], (zero points [2, 32]), rounded up
to 64 bytes, then the line of each plane. A group that lacks its pair has one with scales of 0.

A nibble holds inputs 4j to 4j+3 of an output, the lowest first, as in layout plain. `NIBBLE_ORDERS` says where each one
goes; nothing else tells these layouts apart. Deliberately plain: this file is the definition that kernels are tested
against.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dualbinary.contract.levels import FREE, Levels
from dualbinary.contract.scale_codes import SCALE_DTYPES, dtype_name
from dualbinary.contract.schema import OP, padded_k
from dualbinary.errors import InputError

__all__ = ["LINE_BYTES", "NIBBLE_ORDERS", "BlockShape", "block_shape", "pack_blocks", "stored_shape", "unpack_blocks"]

_ROWS = OP.blocks["rows"]
_ALIGNMENT = OP.blocks["alignment"]
_LINE_INPUTS = OP.limits["group_multiple"]
_HALF_GROUP = OP.limits["half_group"]
_NIBBLES = _LINE_INPUTS // 4  # of an output in a line
_MOST_LINES = 4  # in a segment: 128 inputs
_FACTOR_BYTES = OP.scale_codes["factor_bytes"]
_ZERO = OP.scale_codes["zero"]
LINE_BYTES = _ROWS * _LINE_INPUTS // 8


def _order(pairs: list[tuple[int, int, int]]) -> npt.NDArray[np.intp]:
    """From (output, low nibble, high nibble) for each byte of a line to places in nibbles [output, nibble]."""
    return np.array([(_NIBBLES * r + low, _NIBBLES * r + high) for r, low, high in pairs], np.intp)


# By name of the layout: intp [LINE_BYTES, 2], the nibbles in the low and high half of each byte, as 8 * output + j.
NIBBLE_ORDERS = {
    "avx512": _order([(r, j, j + 4) for r in range(32) for j in range(4)]),
    "avx2": _order([(16 * h + i, 2 * e, 2 * e + 1) for e in range(4) for i in range(16) for h in range(2)]),
    "neon": _order([(r, 4 * h + t, 4 * h + t + 2) for h in range(2) for r in range(32) for t in range(2)]),
}


@dataclass(frozen=True)
class BlockShape:
    """Numbers of a weight in blocks.

    `groups` are those of a row. What is stored as one group is a `unit`: one group, or a pair of 16 inputs each
    (`halves`). `lines` and `segments` are those of a segment and of a unit; `factor_bytes` and `scale_bytes` those of a
    block and of a unit, rounded up; the latter include zero points.
    """

    planes: int
    scale_rows: int
    scale_dtype: np.dtype[Any]
    n: int
    groups: int
    halves: int
    segments: int
    lines: int
    group_zeros: bool

    @property
    def count(self) -> int:
        """B."""
        return -(-self.n // _ROWS)

    @property
    def units(self) -> int:
        """Groups, or pairs of them, that are stored."""
        return -(-self.groups // self.halves)

    @property
    def factor_bytes(self) -> int:
        """Bytes of the factors in front of a block."""
        return _round_up(self.scale_rows * _ROWS * _FACTOR_BYTES) if self.scale_dtype == np.uint8 else 0

    @property
    def used_scale_bytes(self) -> int:
        """Bytes of the scales of a unit, without zero points."""
        return self.halves * self.scale_rows * _ROWS * self.scale_dtype.itemsize

    @property
    def used_zero_bytes(self) -> int:
        """Bytes of the zero points of a unit."""
        return self.halves * _ROWS * self.group_zeros

    @property
    def scale_bytes(self) -> int:
        """Bytes of scales and zero points in front of a unit."""
        return _round_up(self.used_scale_bytes + self.used_zero_bytes)

    @property
    def unit_bytes(self) -> int:
        """Bytes of a unit."""
        return self.scale_bytes + self.segments * self.planes * self.lines * LINE_BYTES

    @property
    def block_bytes(self) -> int:
        """Bytes of a block."""
        return self.factor_bytes + self.units * self.unit_bytes


def block_shape(
    planes: int,
    scale_rows: int,
    scale_dtype: npt.DTypeLike,
    *,
    n: int,
    k: int,
    group_size: int,
    group_zeros: bool = False,
) -> BlockShape:
    """The shape in blocks of a weight [n, k] that fits the contract."""
    halves = 2 if group_size == _HALF_GROUP else 1
    unit_lines = halves * group_size // _LINE_INPUTS
    lines = max(count for count in range(1, _MOST_LINES + 1) if unit_lines % count == 0)
    groups = padded_k(k, group_size) // group_size
    dtype = np.dtype(scale_dtype)
    return BlockShape(planes, scale_rows, dtype, n, groups, halves, unit_lines // lines, lines, group_zeros)


def pack_blocks(
    name: str,
    planes: npt.NDArray[np.uint8],
    scales: npt.NDArray[np.generic],
    k: int,
    group_size: int,
    zeros: npt.NDArray[np.uint8] | None = None,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.generic]]:
    """Planes [B, bytes] and scales [C, N, 0] of the layout called `name` from those of layout plain.

    `planes` are [P, N, Kp/8], without the zero points, which are `zeros` [N, Kp/G].
    """
    P, n, _ = planes.shape
    sizes = {"n": n, "k": k, "group_size": group_size}
    shape = block_shape(P, len(scales), scales.dtype, **sizes, group_zeros=zeros is not None)
    rows = np.zeros((P, shape.count * _ROWS, shape.units * shape.segments * shape.lines * _LINE_INPUTS // 8), np.uint8)
    rows[:, :n, : planes.shape[2]] = planes
    lines = rows.reshape(P, shape.count, _ROWS, shape.units, shape.segments, shape.lines, _LINE_INPUTS // 8)
    lines = np.ascontiguousarray(lines.transpose(1, 3, 4, 0, 5, 2, 6))  # [B, units, segments, P, lines, 32, 4]
    nibbles = np.stack([lines & np.uint8(15), lines >> np.uint8(4)], axis=-1).reshape(
        *lines.shape[:5], _ROWS * _NIBBLES
    )
    low, high = NIBBLE_ORDERS[name].T
    packed = nibbles[..., low] | nibbles[..., high] << np.uint8(4)  # [B, units, segments, P, lines, 128]
    blocks = np.zeros((shape.count, shape.block_bytes), np.uint8)
    values = scales
    if scales.dtype == np.uint8:
        factors = _by_block(scales[:, :, :_FACTOR_BYTES], shape).transpose(1, 0, 2, 3).reshape(shape.count, -1)
        blocks[:, : factors.shape[1]] = factors
        values = scales[:, :, _FACTOR_BYTES:].view(np.uint8) - np.uint8(_ZERO)  # signed, in two's complement
    units = blocks[:, shape.factor_bytes :].reshape(shape.count, shape.units, shape.unit_bytes)  # a view
    units[:, :, : shape.used_scale_bytes] = _by_unit(values, shape)
    if zeros is not None:
        units[:, :, shape.used_scale_bytes :][:, :, : shape.used_zero_bytes] = _by_unit(zeros[None], shape)
    units[:, :, shape.scale_bytes :] = packed.reshape(shape.count, shape.units, -1)
    return blocks, np.zeros((len(scales), n, 0), scales.dtype)


def unpack_blocks(
    name: str,
    planes: npt.NDArray[np.uint8],
    scales: npt.NDArray[np.generic],
    k: int,
    group_size: int,
    levels: Levels = FREE,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.generic], npt.NDArray[np.uint8] | None]:
    """The reverse of `pack_blocks`: planes, scales, zero points or None.

    Raises InputError where the tensors are not of the shape that it makes.
    """
    shape = stored_shape(planes.shape, scales.shape, scales.dtype, k, group_size, levels)
    if planes.dtype != np.uint8:
        raise InputError(f"planes: expected uint8, got {planes.dtype}")
    B, n = shape.count, shape.n
    units = planes[:, shape.factor_bytes :].reshape(B, shape.units, shape.unit_bytes)
    packed = units[:, :, shape.scale_bytes :].reshape(
        B, shape.units, shape.segments, shape.planes, shape.lines, LINE_BYTES
    )
    nibbles = np.empty((*packed.shape[:5], _ROWS * _NIBBLES), np.uint8)
    low, high = NIBBLE_ORDERS[name].T
    nibbles[..., low] = packed & 15
    nibbles[..., high] = packed >> 4
    lines = (nibbles[..., 0::2] | nibbles[..., 1::2] << np.uint8(4)).reshape(
        *packed.shape[:5], _ROWS, _LINE_INPUTS // 8
    )
    rows = lines.transpose(3, 0, 5, 1, 2, 4, 6).reshape(shape.planes, B * _ROWS, -1)
    rows = rows[:, :n, : padded_k(k, group_size) // 8]
    values = _from_units(units[:, :, : shape.used_scale_bytes], shape, shape.scale_rows, shape.scale_dtype)
    if shape.scale_dtype == np.uint8:
        factors = planes[:, : shape.scale_rows * _ROWS * _FACTOR_BYTES]
        factors = factors.reshape(B, shape.scale_rows, _ROWS, _FACTOR_BYTES).transpose(1, 0, 2, 3)
        factors = factors.reshape(shape.scale_rows, B * _ROWS, _FACTOR_BYTES)[:, :n]
        values = np.concatenate([factors, values + np.uint8(_ZERO)], axis=2)
    zeros = None
    if shape.group_zeros:
        stored = units[:, :, shape.used_scale_bytes :][:, :, : shape.used_zero_bytes]
        zeros = _from_units(stored, shape, 1, np.dtype(np.uint8))[0]
    return np.ascontiguousarray(rows), values, zeros


def stored_shape(
    planes: Sequence[int],
    scales: Sequence[int],
    scale_dtype: npt.DTypeLike,
    k: int,
    group_size: int,
    levels: Levels = FREE,
) -> BlockShape:
    """The shape of a weight from the dimensions of its tensors. Raises InputError where these are not of blocks."""
    if np.dtype(scale_dtype) not in SCALE_DTYPES or len(scales) != 3 or scales[2] != 0:
        raise InputError(
            f"scales: expected empty [C, N, 0] beside blocks, got {dtype_name(scale_dtype)} {list(scales)}"
        )
    low, high, rows = OP.limits["min_planes"], OP.limits["max_planes"], scales[0]
    possible = range(high, low - 1, -1) if levels.even else (rows, rows - 1)  # P
    counts = [p for p in possible if low <= p <= high and rows in (levels.scale_rows(p), levels.scale_rows(p) + 1)]
    sizes = {"n": scales[1], "k": k, "group_size": group_size, "group_zeros": levels.group_zeros}
    shapes = [block_shape(p, rows, scale_dtype, **sizes) for p in counts]
    for shape in shapes:
        if tuple(planes) == (shape.count, shape.block_bytes):
            return shape
    expected = " or ".join(str([shape.count, shape.block_bytes]) for shape in shapes)
    raise InputError(
        f"planes: expected shape {expected or '[B, bytes of a block]'} for {rows} rows of scales, got {list(planes)}"
    )


def _by_block(values: np.ndarray, shape: BlockShape) -> np.ndarray:
    """Rows [C, N, ..] as [C, B, 32, ..], with zeros past N."""
    padded = np.zeros((len(values), shape.count * _ROWS, values.shape[2]), values.dtype)
    padded[:, : shape.n] = values
    return padded.reshape(len(values), shape.count, _ROWS, values.shape[2])


def _by_unit(values: np.ndarray, shape: BlockShape) -> npt.NDArray[np.uint8]:
    """Rows [C, N, groups] as bytes [B, units, ..] in the order halves, C, 32, with zeros for groups without values."""
    C = len(values)
    padded = np.zeros((C, shape.n, shape.units * shape.halves), values.dtype)
    padded[:, :, : shape.groups] = values
    of_unit = _by_block(padded, shape).reshape(C, shape.count, _ROWS, shape.units, shape.halves)
    of_unit = np.ascontiguousarray(of_unit.transpose(1, 3, 4, 0, 2))  # [B, units, halves, C, 32]
    of_unit = of_unit.astype(of_unit.dtype.newbyteorder("<"), copy=False).view(np.uint8)
    return of_unit.reshape(shape.count, shape.units, -1)


def _from_units(stored: npt.NDArray[np.uint8], shape: BlockShape, C: int, dtype: np.dtype[Any]) -> np.ndarray:
    """The reverse of `_by_unit`: [C, N, groups] of `dtype`."""
    values = np.ascontiguousarray(stored).view(dtype.newbyteorder("<"))
    values = values.reshape(shape.count, shape.units, shape.halves, C, _ROWS).transpose(3, 0, 4, 1, 2)
    return values.reshape(C, shape.count * _ROWS, -1)[:, : shape.n, : shape.groups].astype(dtype)


def _round_up(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
