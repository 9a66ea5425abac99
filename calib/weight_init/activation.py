"""Weighted least squares with the mean squares of the inputs as importances: the diagonal of the metric alone.

minimize   sum over k of E[x[k]^2] * ( w[k] - w'[k] )^2      for each group
"""

from torch import Tensor

from calib.quantizer import grouped
from calib.scale_parameters import round_parameters, to_parameters, to_scales
from calib.student_weight import planes_of
from calib.weight_init.base import InitialWeight
from calib.weight_init.level_table import start
from dualbinary.contract.weight import PlaneFormat

__all__ = ["activation_weighted"]

ROUNDS = 8


def activation_weighted(weight: Tensor, hessian: Tensor | None, plane_format: PlaneFormat, name: str) -> InitialWeight:
    """Quantize `weight` [N, K] for inputs with `hessian` [K, K], whose diagonal alone is used."""
    if hessian is None:
        raise TypeError("activation weighting needs the hessian of the layer's inputs")
    size = plane_format.group_size
    groups = grouped(weight, size)  # [N, groups, G]
    importance = grouped(hessian.diagonal()[None], size).expand_as(groups).flatten(0, 1)
    flat = groups.flatten(0, 1)
    scales, zeros = start(flat, importance, plane_format, name, ROUNDS)
    parameters = to_parameters(plane_format, scales.unflatten(1, groups.shape[:2]))
    scales = to_scales(plane_format, round_parameters(plane_format, parameters))
    zeros = None if zeros is None else zeros.unflatten(0, groups.shape[:2])
    return InitialWeight(planes_of(weight, scales, zeros, plane_format), scales, weight.clone())
