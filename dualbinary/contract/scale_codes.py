"""Scales of eight bits: one code for each scale, and a float16 factor for each row [c, n] of them.

    scales[c,n,g] = factor[c,n] * (code[c,n,g] - 128) / 128            code 0 to 255, factor finite and of either sign

Stored as uint8 [C, N, 2 + Kp/G]: the two bytes of the factor, low byte first, then the codes. So a scale reaches from
-factor to factor * 127/128, which float16 holds whenever it holds the factor.

Scales of type bfloat16, which NumPy lacks, are arrays of their bits.
"""

import numpy as np
import numpy.typing as npt

from dualbinary.contract.schema import OP
from dualbinary.errors import InputError

__all__ = ["BFLOAT16", "SCALE_DTYPES", "dtype_name", "factors_of", "round_scales", "scale_columns", "scale_values"]

BFLOAT16 = np.dtype(np.uint16)
"""Stands for bfloat16, whose bits such an array holds."""

SCALE_DTYPES = {
    BFLOAT16 if name == "bfloat16" else np.dtype(name): name
    for name in next(value for value in OP.inputs if value.name == "scales").types
}
"""The names in the contract of the types that scales may have."""

_HEAD = OP.scale_codes["factor_bytes"]
_ZERO = OP.scale_codes["zero"]
_UNIT = OP.scale_codes["unit"]

# Factors that round_scales tries, relative to a row's largest scale. Less than 1 cuts that scale short for a finer
# step; the first one keeps it exact and wins ties. What they and more of them gain: docs/log/fitting.md.
_SHARES = (1.0, *np.linspace(15 / 16, 65 / 64, 16))


def scale_columns(groups: int, dtype: npt.DTypeLike) -> int:
    """The last dimension of a scales tensor of `dtype` for `groups` groups."""
    return groups + _HEAD if np.dtype(dtype) == np.uint8 else groups


def dtype_name(dtype: npt.DTypeLike) -> str:
    """The contract's name of a type of scales; NumPy's where the contract has no such type."""
    return SCALE_DTYPES.get(np.dtype(dtype), str(np.dtype(dtype)))


def factors_of(scales: npt.NDArray[np.generic]) -> npt.NDArray[np.float16]:
    """The factors [C, N] of coded scales [C, N, 2 + Kp/G]."""
    low, high = scales[:, :, 0].astype(np.uint16), scales[:, :, 1].astype(np.uint16)
    return (low | high << np.uint16(8)).view(np.float16)


def scale_values(scales: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    """The values of scales of any type of the contract, [C, N, Kp/G]."""
    if scales.dtype == BFLOAT16:
        return (scales.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
    if scales.dtype != np.uint8:
        return scales.astype(np.float64)
    codes = scales[:, :, _HEAD:].astype(np.float64)
    return factors_of(scales).astype(np.float64)[:, :, None] * (codes - _ZERO) / _UNIT


def round_scales(values: npt.NDArray[np.floating], name: str = "weight", first_row: int = 0) -> npt.NDArray[np.uint8]:
    """Coded scales [C, N, 2 + Kp/G] near to finite scales [C, N, Kp/G]: least squares in each row, by trial.

    Raises InputError, naming `name` and the output counted from `first_row`, where a scale is beyond float16.
    """
    values = np.asarray(values, np.float64)
    extreme = np.take_along_axis(values, np.abs(values).argmax(axis=2)[:, :, None], 2)  # [C, N, 1], with its sign
    largest = float(np.finfo(np.float16).max)
    if (beyond := np.abs(extreme) > largest).any():
        c, row, _ = np.argwhere(beyond)[0]
        raise InputError(
            f"{name}: row {first_row + row} needs a scale of {extreme[c, row, 0]:.6g}, expected at most {largest:.6g} "
            "for scales of 8 bits; use float32 scales (--scale-bits 32 of an export)"
        )
    factor = (-extreme).astype(np.float16)  # the code of -1, which has no positive counterpart, is the largest scale's
    codes, least = _nearest_codes(values, factor)

    def keep_better(trial: npt.NDArray[np.float64]) -> None:
        rounded = np.clip(trial, -largest, largest).astype(np.float16)
        trial_codes, error = _nearest_codes(values, rounded)
        better = error < least
        np.copyto(factor, rounded, where=better)
        np.copyto(codes, trial_codes, where=better)
        np.copyto(least, error, where=better)

    for share in _SHARES[1:]:
        keep_better(-share * extreme)
    squares = np.square(codes).sum(axis=2, keepdims=True)
    keep_better(_UNIT * (values * codes).sum(axis=2, keepdims=True) / np.maximum(squares, 1))
    head = factor.astype("<f2").view(np.uint8).reshape(*factor.shape[:2], _HEAD)
    return np.concatenate([head, (codes + _ZERO).astype(np.uint8)], axis=2)


def _nearest_codes(
    values: npt.NDArray[np.float64], factor: npt.NDArray[np.float16]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Codes less 128 [C, N, Kp/G] under factors [C, N, 1], and the sums of squared errors [C, N, 1] of the rows."""
    step = factor.astype(np.float64) / _UNIT
    codes = np.divide(values, step, out=np.zeros_like(values), where=step != 0)
    np.clip(np.rint(codes, out=codes), -_ZERO, 255 - _ZERO, out=codes)
    return codes, np.square(values - step * codes).sum(axis=2, keepdims=True)
