"""Weighted least squares with the mean squares of the inputs as importances: the diagonal of the metric alone.

minimize   sum over k of E[x[k]^2] * ( w[k] - w'[k] )^2      for each group
"""

from torch import Tensor

from calib.layers import Format
from calib.quantizer import grouped, nearest, pack
from calib.weight_init.base import Initialized
from calib.weight_init.least_squares import fitted_scales, refine

__all__ = ["activation_weighted"]

ROUNDS = 8


def activation_weighted(weight: Tensor, hessian: Tensor, format_: Format, name: str) -> Initialized:
    """Quantize `weight` [N, K] for inputs with second moments `hessian` [K, K], of which the diagonal is used."""
    size, planes = format_.group_size, format_.planes
    groups = grouped(weight, size)  # [N, groups, G]
    importance = grouped(hessian.diagonal()[None], size).expand_as(groups).flatten(0, 1)
    flat = groups.flatten(0, 1)
    scales, _ = refine(flat, importance, fitted_scales(flat, format_, name), format_, ROUNDS)
    scales = format_.stored(format_.rounded(format_.free(scales.unflatten(1, groups.shape[:2]))))
    return Initialized(pack(nearest(weight, scales, planes, size), planes, size), scales, weight.clone())
