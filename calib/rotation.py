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

from dualbinary.contract.hadamard import hadamard_matrix
from dualbinary.contract.rotation import Rotation

__all__ = ["LEAST_BLOCK", "InputRotation", "block_of", "random_rotation"]

LEAST_BLOCK = 16  # inputs; less than the smallest group spreads nothing
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
        return self._transform(x.float() * self.signs.to(x.device))

    def undo(self, x: Tensor) -> Tensor:
        """R^T x, float32 [.., K]."""
        return self._transform(x.float()) * self.signs.to(x.device)

    def extra_repr(self) -> str:
        """Sizes, for people who print the model."""
        return f"{self.stored.K}, block_size={self.stored.block_size}"

    def _transform(self, x: Tensor) -> Tensor:
        inner, *outer = _factors(self.stored.block_size)
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


def block_of(width: int, limit: int) -> int | None:
    """The block of `width` inputs: the largest power of two that divides it, up to `limit`; None where it is small."""
    block = min(width & -width, limit)
    return block if block >= LEAST_BLOCK else None


def random_rotation(width: int, limit: int | None, seed: int) -> InputRotation | None:
    """The rotation of `width` inputs in blocks of `limit` at most, which depends on these three alone.

    None without a limit, and for widths that no block fits.
    """
    block = None if limit is None else block_of(width, limit)
    if block is None:
        return None
    generator = torch.Generator().manual_seed(seed * 1_000_003 + width)
    signs = 1 - 2 * torch.randint(0, 2, (width,), generator=generator, dtype=torch.int8)
    return InputRotation(Rotation(block, signs.numpy()))
