"""Pack and unpack the stored layouts. Deliberately plain: this file is the definition that fast code is tested against.

Layout 1 ("plain"): planes is uint8 [P, N, Kp/8 + Z]; bit i of byte j of a row is input k = 8j+i. K is padded with zero
bits to Kp, a multiple of the group size. Where every group has a zero point (levels.py) a row goes on with one bit for
each group, Z bytes of them. blocked_layouts.py has the others; `to_layout` and `to_plain` go between all of
them, byte for byte.
"""

import numpy as np
import numpy.typing as npt

from dualbinary.contract.blocked_layouts import pack_blocks, unpack_blocks
from dualbinary.contract.code_layout import pack_codes, unpack_codes
from dualbinary.contract.levels import FREE, GROUP_ZEROS, Levels, free_scales
from dualbinary.contract.scale_codes import SCALE_DTYPES, dtype_name, factors_of, scale_columns
from dualbinary.contract.schema import OP, padded_k
from dualbinary.errors import InputError

__all__ = [
    "CODES",
    "check_levels",
    "check_tensors",
    "dequantize",
    "pack_planes",
    "pack_zeros",
    "to_layout",
    "to_plain",
    "unpack_planes",
    "unpack_zeros",
]

CODES = "codes"
"""Name of the layout of code_layout.py."""


def pack_planes(bits: npt.ArrayLike, group_size: int) -> npt.NDArray[np.uint8]:
    """Pack bits [P, N, K] of zeros and ones (any integer or bool type) into layout 1: uint8 [P, N, Kp/8].

    Raises InputError if the array is not three-dimensional or holds anything but 0 and 1.
    """
    bits = np.asarray(bits)
    if bits.ndim != 3:
        raise InputError(f"bits must have shape [P, N, K], got {list(bits.shape)}")
    if not ((bits == 0) | (bits == 1)).all():
        raise InputError("bits must hold only 0 and 1")
    k = bits.shape[2]
    padding = padded_k(k, group_size) - k
    padded = np.pad(bits.astype(np.uint8), ((0, 0), (0, 0), (0, padding)))
    return np.packbits(padded, axis=2, bitorder="little")


def unpack_planes(planes: npt.NDArray[np.uint8], k: int) -> npt.NDArray[np.uint8]:
    """Unpack layout 1 planes [P, N, Kp/8] into bits [P, N, K], dropping the padding."""
    return np.unpackbits(planes, axis=2, count=k, bitorder="little")


def pack_zeros(planes: npt.NDArray[np.uint8], zeros: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
    """Planes [P, N, Kp/8] with zero points [N, Kp/G], integers below 2^P, behind them: [P, N, Kp/8 + Z].

    Raises InputError where a zero point needs more than P bits.
    """
    most = (1 << len(planes)) - 1
    if zeros.size and (zeros.min() < 0 or zeros.max() > most):
        raise InputError(
            f"zero points: expected 0 to {most} for {len(planes)} planes, got {zeros.min()}, {zeros.max()}"
        )
    digits = zeros.astype(np.uint8) >> np.arange(len(planes), dtype=np.uint8)[:, None, None] & np.uint8(1)
    return np.concatenate([planes, np.packbits(digits, axis=2, bitorder="little")], axis=2)


def unpack_zeros(planes: npt.NDArray[np.uint8], k: int, group_size: int) -> npt.NDArray[np.uint8]:
    """The zero points [N, Kp/G] behind planes [P, N, Kp/8 + Z]."""
    kp = padded_k(k, group_size)
    digits = np.unpackbits(planes[:, :, kp // 8 :], axis=2, count=kp // group_size, bitorder="little")
    return np.bitwise_or.reduce(digits << np.arange(len(planes), dtype=np.uint8)[:, None, None], axis=0)


def to_layout(
    name: str,
    planes: npt.NDArray[np.uint8],
    scales: npt.NDArray[np.generic],
    k: int,
    group_size: int,
    levels: Levels = FREE,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.generic]]:
    """Planes and scales of the layout called `name` from those of layout plain, which must fit the contract.

    In blocks every output has scales of its own: those [C, 1, ..] of one group for all become [C, N, ..].
    """
    if name == CODES:
        return pack_codes(planes, k, group_size, levels), scales
    if not OP.layout_named(name).blocks:
        return planes, scales
    n = planes.shape[1]
    if scales.shape[1] != n:
        scales = np.repeat(scales, n, axis=1)
    zeros = None
    if levels.group_zeros:
        zeros = unpack_zeros(planes, k, group_size)
        planes = planes[:, :, : padded_k(k, group_size) // 8]
    return pack_blocks(name, planes, scales, k, group_size, zeros)


def to_plain(
    name: str,
    planes: npt.NDArray[np.uint8],
    scales: npt.NDArray[np.generic],
    k: int,
    group_size: int,
    levels: Levels = FREE,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.generic]]:
    """Planes and scales of layout plain from those of the layout called `name`. Raises InputError for other shapes."""
    if name == CODES:
        return unpack_codes(planes, k, group_size, levels), scales
    if not OP.layout_named(name).blocks:
        return planes, scales
    planes, scales, zeros = unpack_blocks(name, planes, scales, k, group_size, levels)
    return (planes if zeros is None else pack_zeros(planes, zeros)), scales


def dequantize(
    planes: npt.NDArray[np.uint8], scales: npt.NDArray[np.generic], k: int, group_size: int, levels: Levels = FREE
) -> npt.NDArray[np.float64]:
    """The weight [N, K] that layout 1 planes [P, N, Kp/8 + Z] and scales [C, N, Kp/G] stand for, in float64.

    w[n,k] = sum_p a[p, n, k // G] * planes[p, n, k] (+ a[P, n, k // G]) with the scales a of `free_scales`; scales of
    any type of the contract.
    """
    check_tensors(planes, scales, planes.shape[1] if planes.ndim == 3 else 0, k, group_size, levels=levels)
    bits = unpack_planes(planes, k)  # [P, N, K]
    zeros = unpack_zeros(planes, k, group_size) if levels.group_zeros else None
    rows = free_scales(scales, levels, len(bits), zeros)
    per_weight = np.repeat(rows, group_size, axis=2)[:, :, :k]  # [C', N, K]
    count = len(bits)
    weight = (per_weight[:count] * bits).sum(axis=0)
    return weight + per_weight[count] if len(rows) == count + 1 else weight


def check_tensors(
    planes: np.ndarray,
    scales: np.ndarray,
    n: int,
    k: int,
    group_size: int,
    name: str = "weight",
    levels: Levels = FREE,
) -> None:
    """Raise InputError, naming `name`, unless both tensors fit the contract for an [n, k] weight in layout 1."""
    limits = OP.limits
    multiple, half = limits["group_multiple"], limits["half_group"]
    if not (levels.even and group_size == half) and (group_size < multiple or group_size % multiple):
        least = f", or {half} with even levels" if group_size == half else ""
        raise InputError(f"{name}: group_size must be a positive multiple of {multiple}{least}, got {group_size}")
    if group_size > padded_k(k, multiple):
        raise InputError(
            f"{name}: group_size {group_size} is larger than the row of {k} inputs (at most {padded_k(k, multiple)})"
        )
    if planes.dtype != np.uint8 or planes.ndim != 3:
        raise InputError(f"{name}.planes: expected uint8 [P, N, Kp/8], got {planes.dtype} {list(planes.shape)}")
    count, kp = planes.shape[0], padded_k(k, group_size)
    if not limits["min_planes"] <= count <= limits["max_planes"]:
        raise InputError(f"{name}.planes: {count} planes, expected {limits['min_planes']} to {limits['max_planes']}")
    columns = kp // 8 + levels.zero_bytes(kp // group_size)
    if planes.shape != (count, n, columns):
        raise InputError(f"{name}.planes: expected shape {[count, n, columns]}, got {list(planes.shape)}")
    check_levels(levels, count, name)
    _check_scales(scales, count, n, kp // group_size, name, levels)


def check_levels(levels: Levels, planes: int, name: str = "weight") -> None:
    """Raise InputError, naming `name`, unless the levels fit the contract for so many planes."""
    most = 2 * ((1 << planes) - 1)
    if not levels.even and levels.twice_zero != 0:
        raise InputError(f"{name}: twice_zero must be 0 with free levels, got {levels.twice_zero}")
    if not GROUP_ZEROS <= levels.twice_zero <= most:
        raise InputError(
            f"{name}: twice_zero must be 0 to {most} for {planes} planes, or {GROUP_ZEROS} for a zero point of each "
            f"group, got {levels.twice_zero}"
        )


def _check_scales(scales: np.ndarray, planes: int, n: int, groups: int, name: str, levels: Levels) -> None:
    if scales.dtype not in SCALE_DTYPES:
        expected = " or ".join(", ".join(SCALE_DTYPES.values()).rsplit(", ", 1))
        raise InputError(f"{name}.scales: expected {expected}, got {scales.dtype}")
    columns = scale_columns(groups, scales.dtype)
    least = levels.scale_rows(planes)
    shared = levels.even and groups == 1 and not levels.group_zeros  # one step for all outputs
    outputs = (n, 1) if shared else (n,)
    if (
        scales.ndim != 3
        or scales.shape[0] not in (least, least + 1)
        or scales.shape[1] not in outputs
        or scales.shape[2] != columns
    ):
        raise InputError(
            f"{name}.scales: expected shape [{least} or {least + 1}, {n}, {columns}] of {dtype_name(scales.dtype)}, "
            f"got {list(scales.shape)}"
        )
    if levels.twice_zero != 0 and len(scales) > least:
        raise InputError(f"{name}: twice_zero must be 0 beside an offset, got {levels.twice_zero}")
    if scales.dtype == np.uint8 and not np.isfinite(factors := factors_of(scales)).all():
        c, row = np.argwhere(~np.isfinite(factors))[0]
        raise InputError(f"{name}.scales: the factor of row {c} of output {row} is {factors[c, row]}, expected finite")
