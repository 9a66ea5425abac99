"""Random initialization, for comparison: signs that know nothing of the weight.

    B[i] = -1 or 1 by the toss of a coin,   a[i] = mean |W| / P        the mean over a group

The best factors for such bases would be near 0, from where no gradient finds back; these have the size of those
without cascade. What is drawn depends on the seed and the layer's name alone.
"""

import zlib
from dataclasses import dataclass

import torch
from torch import Tensor

from calib.weight_init.base import InitialWeight
from calib.weight_init.bases import checked, from_bases, mean_size, real_inputs, signs
from dualbinary.contract.weight import PlaneFormat

__all__ = ["RandomSigns"]


@dataclass(frozen=True)
class RandomSigns:
    """Random initialization under a seed."""

    seed: int

    def __call__(self, weight: Tensor, hessian: Tensor | None, plane_format: PlaneFormat, name: str) -> InitialWeight:
        """Initialize `weight` [N, K]; `hessian` is not used. Raises InputError for broken weights and other formats."""
        groups, count = checked(weight, plane_format, name), plane_format.planes
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + zlib.crc32(name.encode()))
        bases = signs(torch.rand(count, *groups.shape, generator=generator) - 0.5).to(weight.device)
        factor = mean_size(groups, real_inputs(weight.shape[1], plane_format, groups)) / count
        return from_bases(weight, bases, factor.expand(count, *factor.shape).contiguous(), plane_format, name)
