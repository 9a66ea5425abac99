"""Parameters that training moves in place of stored scales.

With free levels these are the scales [C, ...] themselves. With symmetric levels (QBB) they are the factors a [P, ...]
of bases in {-1, 1}: scales[p] = 2 a[p], and the offset is minus the sum of the factors, so that every level has its
negative. No other module knows the two forms.
"""

import torch
from torch import Tensor

from dualbinary import InputError
from dualbinary.contract.weight import PlaneFormat

__all__ = ["checked_parameters", "round_parameters", "to_parameters", "to_scales"]

FLOAT16_DIGITS = 11  # bits of a float16's significand
FLOAT16_STEP = 2.0**-24  # between the smallest float16 numbers


def checked_parameters(plane_format: PlaneFormat, scales: Tensor) -> Tensor:
    """The parameters of `scales` [C, ...]. Raises InputError where the scales are not exactly of the format."""
    if plane_format.symmetric and not torch.equal(scales[:-1].sum(0) / 2, -scales[-1]):
        raise InputError("scales: the offset is not minus half the sum of the others, expected of method qbb")
    return to_parameters(plane_format, scales)


def to_parameters(plane_format: PlaneFormat, scales: Tensor) -> Tensor:
    """The parameters of `scales` [C, ...] unchecked: after arithmetic, which rounds, symmetry holds only nearly."""
    return scales[: plane_format.planes] / 2 if plane_format.symmetric else scales


def to_scales(plane_format: PlaneFormat, parameters: Tensor) -> Tensor:
    """The scales [C, ...] of `parameters`; differentiable."""
    return torch.cat([2 * parameters, -parameters.sum(0, keepdim=True)]) if plane_format.symmetric else parameters


def round_parameters(plane_format: PlaneFormat, parameters: Tensor) -> Tensor:
    """`parameters` moved to where float16 holds all of their scales; those already there stay.

    Symmetric: to multiples of the float16 step just below the sum of their sizes. Then the offset is exact as well, and
    the constraint holds to the last bit; a factor moves by about 2^-11 of the sum at most.
    """
    if not plane_format.symmetric:
        return parameters.half().float()
    step = _float16_step(parameters.abs().sum(0))
    moved = (parameters / step).round() * step
    step = torch.maximum(step, _float16_step(moved.abs().sum(0)))  # rounding up may have passed a power of two
    return (parameters / step).round() * step


def _float16_step(size: Tensor) -> Tensor:
    """The distance of float16 numbers just below `size`."""
    mantissa, exponent = size.frexp()
    exponent = exponent - (mantissa == 0.5).int() - FLOAT16_DIGITS  # a power of two belongs to the numbers below it
    return torch.ldexp(torch.ones_like(size), exponent).clamp_min(FLOAT16_STEP)
