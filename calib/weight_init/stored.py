"""Initialization from planes and scales that exist: a checkpoint of any method."""

from torch import Tensor

from calib.student_weight import into_cells_of
from calib.weight_init.base import InitialWeight
from dualbinary.contract.weight import PlaneFormat

__all__ = ["from_planes"]


def from_planes(weight: Tensor, planes: Tensor, scales: Tensor, plane_format: PlaneFormat) -> InitialWeight:
    """`planes` uint8 [P, N, Kp/8] and `scales` [C, N, groups] as the initial weight of `weight` [N, K].

    Zero points are behind the planes where groups have some.
    The latents are the full-precision weights, each moved into the cell of its code: what is known of how near a weight
    is to another level.
    """
    scales = scales.float()
    return InitialWeight(planes, scales, into_cells_of(planes, weight.float(), scales, plane_format))
