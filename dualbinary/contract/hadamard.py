"""SignedHadamard, naive: the definition of "correct" for its kernels and its fallback function.

    inverse 0   Y[..,k] = block_size^(-1/2) * sum over j of (-1)^popcount(k' & j') * S[j] * X[..,j]
    inverse 1   Y[..,k] = S[k] * block_size^(-1/2) * sum over j of (-1)^popcount(k' & j') * X[..,j]

j runs over the inputs of the block of k; k' and j' are places in the block. The matrix of a block is symmetric and
orthogonal, so that one is the inverse of the other. It is the Kronecker product of log2(block_size) matrices
[[1, 1], [1, -1]], times a factor: sums and differences of neighbors, then of neighbors but one, and so on.
"""

import numpy as np
import numpy.typing as npt

from dualbinary.contract.schema import HADAMARD
from dualbinary.errors import InputError

__all__ = ["check_hadamard", "hadamard_matrix", "signed_hadamard"]


def signed_hadamard(
    x: npt.NDArray[np.floating], signs: npt.NDArray[np.integer], block_size: int, inverse: bool = False
) -> npt.NDArray[np.float64]:
    """Return Y [.., K] in float64 for X [.., K] and signs [K], each 1 or -1.

    The result is not rounded to the type of X, so that a caller can measure against it. NaN and infinity follow IEEE
    rules. Raises InputError where an argument does not fit the contract.
    """
    x, signs = np.asarray(x), np.asarray(signs)
    check_hadamard(block_size, signs, K=x.shape[-1] if x.ndim else 0)
    blocks = np.asarray(x, np.float64) * (1 if inverse else signs)
    shape, half = blocks.shape, 1
    with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinity are answers here
        while half < block_size:
            pairs = blocks.reshape(-1, 2, half)
            blocks = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], axis=1)
            half *= 2
    return blocks.reshape(shape) * ((signs if inverse else 1) / np.sqrt(block_size))


def hadamard_matrix(block_size: int) -> npt.NDArray[np.int8]:
    """The matrix [block_size, block_size] of 1 and -1, without the factor block_size^(-1/2)."""
    matrix = np.ones((1, 1), np.int8)
    while len(matrix) < block_size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


def check_hadamard(block_size: int, signs: npt.NDArray[np.generic], K: int, name: str = "SignedHadamard") -> None:
    """Raise InputError, which begins with `name`, where a block size or signs do not fit K inputs."""
    largest = HADAMARD.limits["max_block_size"]
    least = HADAMARD.attribute("block_size").minimum or 0
    if not least <= block_size <= largest or block_size & (block_size - 1):
        raise InputError(f"{name}: block_size: expected a power of two from {least} to {largest}, got {block_size}")
    if signs.ndim != 1 or K < 1 or K % block_size or len(signs) != K:
        raise InputError(
            f"{name}: signs: expected as many as inputs, a multiple of block_size={block_size}, got shape "
            f"{list(signs.shape)} for {K} inputs"
        )
    if not (np.abs(signs) == 1).all():
        raise InputError(f"{name}: signs: expected 1 or -1 for each input, got other values")
