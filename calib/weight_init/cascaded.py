"""QBB's analytic initialization (NeurIPS 2024): each basis takes the signs of what those before it left over.

    R[1] = W,   B[i] = sign(R[i]),   a[i] = mean |R[i]|,   R[i+1] = R[i] - a[i] B[i]        the mean over a group

B[i] and a[i] are the best for R[i] in the sense of least squares, one basis at a time; all together they are not yet.
"""

import torch
from torch import Tensor

from calib.weight_init.base import InitialWeight
from calib.weight_init.bases import checked, from_bases, mean_size, real_inputs, signs
from dualbinary.contract.weight import PlaneFormat

__all__ = ["cascaded"]


def cascaded(weight: Tensor, plane_format: PlaneFormat, name: str) -> InitialWeight:
    """Initialize `weight` [N, K]. Raises InputError for broken weights and other formats."""
    rest = checked(weight, plane_format, name)
    real = real_inputs(weight.shape[1], plane_format, rest)
    bases, factors = [], []
    for _ in range(plane_format.planes):
        bases.append(signs(rest))
        factors.append(mean_size(rest, real))
        rest = rest - factors[-1][..., None] * bases[-1]
    return from_bases(weight, torch.stack(bases), torch.stack(factors), plane_format, name)
