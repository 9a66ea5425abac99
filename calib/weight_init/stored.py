"""Initialization from planes and scales that exist: a checkpoint of any method."""

from torch import Tensor

from calib.quantizer import codes_of, into_cells
from calib.weight_init.base import InitialWeight
from dualbinary.contract.weight import PlaneFormat

__all__ = ["from_planes"]


def from_planes(weight: Tensor, planes: Tensor, scales: Tensor, plane_format: PlaneFormat) -> InitialWeight:
    """`planes` uint8 [P, N, Kp/8] and `scales` [C, N, groups] as the initial weight of `weight` [N, K].

    The latents are the full-precision weights, each moved into the cell of its code: what is known of how near a weight
    is to another level.
    """
    scales = scales.float()
    codes = codes_of(planes, weight.shape[1])
    latent = into_cells(weight.float(), codes, scales, plane_format.planes, plane_format.group_size)
    return InitialWeight(planes, scales, latent)
