"""A rotated basis of a layer's inputs: signs and a Walsh-Hadamard transform of each block, W x = (W R^T) (R x).

    R x = H (s * x)          R^T x = s * (H x)

H is normalized, symmetric and orthogonal on each block of `block_size` inputs, s are signs: the operator SignedHadamard
(dualbinary/contract/hadamard.py), here in torch and differentiable. The Sylvester matrix of a block is the Kronecker
product of smaller ones, so that a block takes one product with a small matrix for each of its factors.

Rotating what a layer reads spreads the few large inputs and weights over a block, and leaves the function as it is:
QuaRot (arXiv 2404.00456), QuIP# (arXiv 2402.04396).
"""

from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from dualbinary.contract import rotation
from dualbinary.contract.hadamard import hadamard_matrix
from dualbinary.contract.rotation import Rotation

__all__ = ["InputRotation", "random_rotation", "transform"]

FACTOR_BITS = 6  # of the largest matrix that a block is multiplied with: small products are slow, large ones do much


class InputRotation(nn.Module):
    """x [.., K] -> R x; `undo` gives x back. Both are differentiable; values are float32 whatever autocast says.

    Attributes:
        stored: block size and signs, as files have them.
    """

    signs: Tensor  # int8 [K], a buffer that no state holds

    def __init__(self, stored: Rotation) -> None:
        super().__init__()
        self.stored = stored
        self.register_buffer("signs", torch.from_numpy(stored.signs.astype(np.int8)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """R x, float32 [.., K]."""
        return transform(x.float() * self.signs.to(x.device), self.stored.block_size)

    def undo(self, x: Tensor) -> Tensor:
        """R^T x, float32 [.., K]."""
        return transform(x.float(), self.stored.block_size) * self.signs.to(x.device)

    def extra_repr(self) -> str:
        """Sizes, for people who print the model."""
        return f"{len(self.stored.signs)}, block_size={self.stored.block_size}"


def transform(x: Tensor, block_size: int) -> Tensor:
    """H x for each block of x, float32 [.., K]."""
    inner, *outer = _factors(block_size)
    with torch.autocast(x.device.type, enabled=False):
        found = x.reshape(-1, inner) @ _matrix(inner, x.device)
        for factor in outer:
            found = _matrix(factor, x.device) @ found.reshape(-1, factor, inner)
            inner *= factor
    return found.reshape(x.shape)


def _factors(block_size: int) -> list[int]:
    """Powers of two, as equal as can be, whose product is `block_size`."""
    bits = block_size.bit_length() - 1
    count = max(1, -(-bits // FACTOR_BITS))
    return [1 << (bits + place) // count for place in reversed(range(count))]


@cache
def _matrix(size: int, device: torch.device) -> Tensor:
    """The normalized matrix [size, size]."""
    return torch.from_numpy(hadamard_matrix(size).astype(np.float32) / np.sqrt(np.float32(size))).to(device)


def random_rotation(width: int, limit: int | None, seed: int) -> InputRotation | None:
    """The random rotation of `width` inputs in blocks of `limit` at most (dualbinary/contract/rotation.py).

    None without a limit, and for widths that no block fits.
    """
    stored = None if limit is None else rotation.random_rotation(width, limit, seed)
    return None if stored is None else InputRotation(stored)
