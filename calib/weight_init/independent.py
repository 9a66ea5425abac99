"""Initialization without cascade, for comparison: every basis is fitted to the weight itself, none to a residual.

    B[i] = sign(W),   a[i] = mean |W| / P        the mean over a group

The paper compares with such a one and does not say what it is. Fitted to the same W, all bases are the same; an equal
share of the factor makes their sum the best multiple of that one basis, so it begins where one basis alone ends.
"""

from torch import Tensor

from calib.weight_init.base import InitialWeight
from calib.weight_init.bases import checked, from_bases, mean_size, real_inputs, signs
from dualbinary.contract.weight import PlaneFormat

__all__ = ["independent"]


def independent(weight: Tensor, plane_format: PlaneFormat, name: str) -> InitialWeight:
    """Initialize `weight` [N, K]. Raises InputError for broken weights and other formats."""
    groups, count = checked(weight, plane_format, name), plane_format.planes
    factor = mean_size(groups, real_inputs(weight.shape[1], plane_format, groups)) / count
    bases, factors = signs(groups).expand(count, *groups.shape), factor.expand(count, *factor.shape)
    return from_bases(weight, bases, factors.contiguous(), plane_format, name)
