"""The rotation of a layer's inputs in torch: differentiable, and the same for rows of weights and for activations."""

from functools import lru_cache

import torch
from torch import Tensor

from dualbinary.contract.hadamard import hadamard_matrix
from dualbinary.contract.rotation import Rotation

__all__ = ["rotated", "unrotated"]


def rotated(x: Tensor, signs: Tensor, rotation: Rotation) -> Tensor:
    """H(signs * x) of x [..., K], in its dtype, computed in float32; `signs` are those of the rotation, on its device."""
    return _transformed(x.float() * signs, rotation.block_size).to(x.dtype)


def unrotated(x: Tensor, signs: Tensor, rotation: Rotation) -> Tensor:
    """The x [..., K] of which `rotated` makes this, up to rounding."""
    return (_transformed(x.float(), rotation.block_size) * signs).to(x.dtype)


def _transformed(x: Tensor, block_size: int) -> Tensor:
    """The transform of each block: a matrix is a Kronecker product, so two small ones do."""
    left, right = _factors(block_size, x.device)
    blocks = x.reshape(-1, len(left), len(right))
    with torch.autocast(x.device.type, enabled=False):
        return (left @ (blocks @ right)).view_as(x)


@lru_cache(maxsize=8)
def _factors(block_size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    small = 1 << (block_size.bit_length() - 1) // 2
    sizes = small, block_size // small
    left, right = (torch.from_numpy(hadamard_matrix(size)).to(device, torch.float32) for size in sizes)
    return left, right * block_size**-0.5
