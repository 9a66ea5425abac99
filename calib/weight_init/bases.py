"""Common parts of the initializations of QBB: bases of -1 and 1 and a factor each, as planes and scales.

    W[n,k] ~ sum over i of a[i,n,g] B[i,n,k],   B in {-1, 1}        plane i is (B[i] + 1) / 2

calib.scale_parameters says which scales follow from a. Weights come as `grouped` [N, groups, G]; where K ends
inside a group, `real` is 0 for what is only padding.
"""

import torch
from torch import Tensor

from calib.quantizer import grouped, into_cells, pack
from calib.scale_parameters import round_parameters, scale_type, to_scales
from calib.weight_init.base import InitialWeight
from dualbinary import InputError
from dualbinary.contract.scale_codes import dtype_name
from dualbinary.contract.weight import PlaneFormat

__all__ = ["checked", "from_bases", "mean_size", "real_inputs", "signs"]


def checked(weight: Tensor, plane_format: PlaneFormat, name: str) -> Tensor:
    """`weight` [N, K] in groups. Raises InputError where the format is not QBB's or a weight is not finite."""
    if not plane_format.symmetric:
        raise InputError(f"{name}: this initialization makes bases of -1 and 1; expected --method qbb")
    if not weight.isfinite().all():
        raise InputError(f"{name}: holds a weight that is not finite; repair the model")
    return grouped(weight.float(), plane_format.group_size)


def real_inputs(K: int, plane_format: PlaneFormat, like: Tensor) -> Tensor:
    """[1, groups, G]: 1 for inputs, 0 for padding."""
    return grouped(torch.ones(1, K, dtype=like.dtype, device=like.device), plane_format.group_size)


def signs(values: Tensor) -> Tensor:
    """-1 or 1 for each value; zero counts as positive."""
    return torch.where(values < 0, -1.0, 1.0)


def mean_size(groups: Tensor, real: Tensor) -> Tensor:
    """The mean magnitude [N, groups] of each group: with bits that are its signs, the factor of least squares."""
    return (groups.abs() * real).sum(2) / real.sum(2)


def from_bases(weight: Tensor, bases: Tensor, factors: Tensor, plane_format: PlaneFormat, name: str) -> InitialWeight:
    """Bases [P, N, groups, G] and factors [P, N, groups] as planes and scales of `weight` [N, K]. Raises InputError."""
    scales = to_scales(plane_format, round_parameters(plane_format, factors))
    if not scales.to(scale_type(plane_format)).isfinite().all():
        raise InputError(
            f"{name}: needs scales that {dtype_name(plane_format.scale_dtype)} does not hold; scale the model's "
            "weights down"
        )
    codes = sum((basis > 0).to(torch.uint8) << plane for plane, basis in enumerate(bases))
    assert isinstance(codes, Tensor)
    codes = codes.flatten(1)[:, : weight.shape[1]].contiguous()
    latent = into_cells(weight.float(), codes, scales, plane_format.planes, plane_format.group_size)
    return InitialWeight(pack(codes, plane_format.planes, plane_format.group_size), scales, latent)
