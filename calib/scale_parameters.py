"""Parameters that training moves in place of stored scales.

With free levels these are the scales [C, ...] themselves. With symmetric levels (QBB) they are the factors a [P, ...]
of bases in {-1, 1}: scales[p] = 2 a[p], and the offset is minus the sum of the factors, so that every level has its
negative. With even levels the parameter of the step is 2^(P-1) times the step, what the highest plane adds: so a rate
means the same for steps as for free scales. No other module knows the three forms, or the types of stored scales.
"""

import numpy as np
import torch
from torch import Tensor

from dualbinary import InputError
from dualbinary.contract.scale_codes import BFLOAT16, round_scales
from dualbinary.contract.schema import OP
from dualbinary.contract.weight import PlaneFormat

__all__ = [
    "checked_parameters",
    "code_values",
    "round_parameters",
    "scale_type",
    "stored_array",
    "to_parameters",
    "to_scales",
]

# Of the types shorter than the arithmetic: bits of the significand, and the step between the smallest numbers.
PRECISION = {torch.float16: (11, 2.0**-24), torch.bfloat16: (8, 2.0**-133)}
TYPES = {
    np.dtype(np.float16): torch.float16,
    np.dtype(np.float32): torch.float32,
    BFLOAT16: torch.bfloat16,
    np.dtype(np.uint8): torch.float16,  # codes of a row have one factor, so they are made once the row is done
}


def scale_type(plane_format: PlaneFormat) -> torch.dtype:
    """The type that holds scales of the format while they change: that in which they are stored, float16 for codes."""
    return TYPES[plane_format.scale_dtype]


def stored_array(plane_format: PlaneFormat, scales: Tensor) -> np.ndarray:
    """`scales` [C, N, groups] in the type of the format, bfloat16 as its bits, 8 bits as codes (scale_codes.py)."""
    if plane_format.scale_dtype == np.uint8:
        return round_scales(scales.detach().double().numpy())
    stored = scales.detach().to(scale_type(plane_format))
    return (stored.view(torch.uint16) if stored.dtype == torch.bfloat16 else stored).numpy()


def code_values(scales: Tensor) -> Tensor:
    """The values float32 [C, N, groups] of scales as they are stored, codes of 8 bits among them; none is rounded."""
    if scales.dtype != torch.uint8:
        return scales.float()
    head, zero, unit = (OP.scale_codes[key] for key in ("factor_bytes", "zero", "unit"))
    factors = scales[..., :head].contiguous().view(torch.float16).float()
    return factors * (scales[..., head:].float() - zero) / unit


def checked_parameters(plane_format: PlaneFormat, scales: Tensor) -> Tensor:
    """The parameters of `scales` [C, ...]. Raises InputError where the scales are not exactly of the format."""
    if plane_format.symmetric and not torch.equal(scales[:-1].sum(0) / 2, -scales[-1]):
        raise InputError("scales: the offset is not minus half the sum of the others, expected of method qbb")
    return to_parameters(plane_format, scales)


def to_parameters(plane_format: PlaneFormat, scales: Tensor) -> Tensor:
    """The parameters of `scales` [C, ...] unchecked: after arithmetic, which rounds, symmetry holds only nearly."""
    if plane_format.even:
        return torch.cat([scales[:1] * _highest(plane_format), scales[1:]])
    return scales[: plane_format.planes] / 2 if plane_format.symmetric else scales


def to_scales(plane_format: PlaneFormat, parameters: Tensor) -> Tensor:
    """The scales [C, ...] of `parameters`; differentiable."""
    if plane_format.even:
        return torch.cat([parameters[:1] / _highest(plane_format), parameters[1:]])
    return torch.cat([2 * parameters, -parameters.sum(0, keepdim=True)]) if plane_format.symmetric else parameters


def _highest(plane_format: PlaneFormat) -> int:
    """The share of a step that the highest plane adds: a power of two, so that nothing is rounded."""
    return 1 << (plane_format.planes - 1)


def round_parameters(plane_format: PlaneFormat, parameters: Tensor) -> Tensor:
    """`parameters` moved to where the type of the format holds all of their scales; those already there stay.

    Symmetric: to multiples of the type's step just below the sum of their sizes. Then the offset is exact as well, and
    the constraint holds to the last bit; in float16 a factor moves by about 2^-11 of the sum at most.
    """
    kind = scale_type(plane_format)
    if not plane_format.symmetric or kind == torch.float32:
        scales = to_scales(plane_format, parameters).to(kind).to(parameters.dtype)
        return to_parameters(plane_format, scales)
    step = _step_below(parameters.abs().sum(0), kind)
    moved = (parameters / step).round() * step
    step = torch.maximum(step, _step_below(moved.abs().sum(0), kind))  # rounding up may have passed a power of two
    return (parameters / step).round() * step


def _step_below(size: Tensor, kind: torch.dtype) -> Tensor:
    """The distance of numbers of type `kind` just below `size`."""
    digits, smallest = PRECISION[kind]
    mantissa, exponent = size.frexp()
    exponent = exponent - (mantissa == 0.5).int() - digits  # a power of two belongs to the numbers below it
    return torch.ldexp(torch.ones_like(size), exponent).clamp_min(smallest)
