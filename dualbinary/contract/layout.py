"""Pack and unpack the stored layouts. Deliberately plain: this file is the definition that fast code is tested against.

Layout 1 ("plain"): planes is uint8 [P, N, Kp/8]; bit i of byte j of a row is input k = 8j+i. K is padded with zero bits
to Kp, a multiple of the group size. blocked_layouts.py has the others; `to_layout` and `to_plain` go between all of
them, byte for byte.
"""

import numpy as np
import numpy.typing as npt

from dualbinary.contract.blocked_layouts import pack_blocks, unpack_blocks
from dualbinary.contract.scale_codes import factors_of, scale_columns, scale_values
from dualbinary.contract.schema import OP, padded_k
from dualbinary.errors import InputError

__all__ = ["check_tensors", "dequantize", "pack_planes", "to_layout", "to_plain", "unpack_planes"]


def pack_planes(bits: npt.ArrayLike, group_size: int) -> npt.NDArray[np.uint8]:
    """Pack bits [P, N, K] of zeros and ones (any integer or bool type) into layout 1: uint8 [P, N, Kp/8].

    Raises InputError if the array is not three-dimensional or holds anything but 0 and 1.
    """
    bits = np.asarray(bits)
    if bits.ndim != 3:
        raise InputError(f"bits must have shape [P, N, K], got {list(bits.shape)}")
    if bits.size and not np.isin(bits, (0, 1)).all():
        raise InputError("bits must hold only 0 and 1")
    k = bits.shape[2]
    padding = padded_k(k, group_size) - k
    padded = np.pad(bits.astype(np.uint8), ((0, 0), (0, 0), (0, padding)))
    return np.packbits(padded, axis=2, bitorder="little")


def unpack_planes(planes: npt.NDArray[np.uint8], k: int) -> npt.NDArray[np.uint8]:
    """Unpack layout 1 planes [P, N, Kp/8] into bits [P, N, K], dropping the padding."""
    return np.unpackbits(planes, axis=2, count=k, bitorder="little")


def to_layout(
    name: str, planes: npt.NDArray[np.uint8], scales: npt.NDArray[np.generic], k: int, group_size: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.generic]]:
    """Planes and scales of the layout called `name` from those of layout plain, which must fit the contract."""
    if not OP.layout_named(name).blocks:
        return planes, scales
    return pack_blocks(name, planes, scales, k, group_size)


def to_plain(
    name: str, planes: npt.NDArray[np.uint8], scales: npt.NDArray[np.generic], k: int, group_size: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.generic]]:
    """Planes and scales of layout plain from those of the layout called `name`. Raises InputError for other shapes."""
    if not OP.layout_named(name).blocks:
        return planes, scales
    return unpack_blocks(name, planes, scales, k, group_size)


def dequantize(
    planes: npt.NDArray[np.uint8], scales: npt.NDArray[np.generic], k: int, group_size: int
) -> npt.NDArray[np.float64]:
    """The weight [N, K] that layout 1 planes [P, N, Kp/8] and scales [C, N, Kp/G] stand for, in float64.

    w[n,k] = sum_p scales[p, n, k // G] * planes[p, n, k] (+ scales[P, n, k // G] where C = P+1); scales of any type
    of the contract.
    """
    check_tensors(planes, scales, planes.shape[1] if planes.ndim == 3 else 0, k, group_size)
    bits = unpack_planes(planes, k)  # [P, N, K]
    per_weight = np.repeat(scale_values(scales), group_size, axis=2)[:, :, :k]  # [C, N, K]
    count = len(bits)
    weight = (per_weight[:count] * bits).sum(axis=0)
    return weight + per_weight[count] if len(scales) == count + 1 else weight


def check_tensors(
    planes: np.ndarray, scales: np.ndarray, n: int, k: int, group_size: int, name: str = "weight"
) -> None:
    """Raise InputError, naming `name`, unless both tensors fit the contract for an [n, k] weight in layout 1."""
    limits = OP.limits
    multiple = limits["group_multiple"]
    if group_size < multiple or group_size % multiple:
        raise InputError(f"{name}: group_size must be a positive multiple of {multiple}, got {group_size}")
    if group_size > padded_k(k, multiple):
        raise InputError(
            f"{name}: group_size {group_size} is larger than the row of {k} inputs (at most {padded_k(k, multiple)})"
        )
    if planes.dtype != np.uint8 or planes.ndim != 3:
        raise InputError(f"{name}.planes: expected uint8 [P, N, Kp/8], got {planes.dtype} {list(planes.shape)}")
    count, kp = planes.shape[0], padded_k(k, group_size)
    if not limits["min_planes"] <= count <= limits["max_planes"]:
        raise InputError(f"{name}.planes: {count} planes, expected {limits['min_planes']} to {limits['max_planes']}")
    if planes.shape != (count, n, kp // 8):
        raise InputError(f"{name}.planes: expected shape {[count, n, kp // 8]}, got {list(planes.shape)}")
    _check_scales(scales, count, n, kp // group_size, name)


def _check_scales(scales: np.ndarray, planes: int, n: int, groups: int, name: str) -> None:
    if scales.dtype not in (np.float16, np.float32, np.uint8):
        raise InputError(f"{name}.scales: expected float16, float32 or uint8, got {scales.dtype}")
    columns = scale_columns(groups, scales.dtype)
    if scales.ndim != 3 or scales.shape[0] not in (planes, planes + 1) or scales.shape[1:] != (n, columns):
        raise InputError(
            f"{name}.scales: expected shape [{planes} or {planes + 1}, {n}, {columns}] of {scales.dtype}, "
            f"got {list(scales.shape)}"
        )
    if scales.dtype == np.uint8 and not np.isfinite(factors := factors_of(scales)).all():
        c, row = np.argwhere(~np.isfinite(factors))[0]
        raise InputError(f"{name}.scales: the factor of row {c} of output {row} is {factors[c, row]}, expected finite")
