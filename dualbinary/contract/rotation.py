"""A rotation of a weight's inputs: the weight multiplies X after a signed blockwise Walsh-Hadamard transform.

    w · x  =  w_stored · H(S * x)         w_stored = H(S * w)         w = S * H(w_stored)

for each row of the weight: the matrix of H is orthogonal, so that nothing is lost but rounding. A looked-up row of a
table is w as well.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dualbinary.contract.hadamard import check_hadamard, signed_hadamard

__all__ = ["LEAST_BLOCK", "Rotation", "block_of", "random_rotation"]

LEAST_BLOCK = 16  # inputs of a random rotation: less than the smallest group spreads nothing

_ELEMENTS = 1 << 22  # transformed at a time, in float64


@dataclass(frozen=True, eq=False)
class Rotation:
    """Block size, and signs int8 [K], each 1 or -1. Rotations are equal where both are."""

    block_size: int
    signs: npt.NDArray[np.int8]

    def check(self, K: int, name: str) -> None:
        """Raise InputError, which begins with `name`, where this is no rotation of K inputs."""
        check_hadamard(self.block_size, self.signs, K, name)

    @property
    def key(self) -> tuple[int, bytes]:
        """What makes two rotations the same."""
        return self.block_size, self.signs.tobytes()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rotation) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def rotated(self, weight: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """The rows that are stored for those of a weight [N, K]: also X [M, K] as the stored weight reads it."""
        return self._transformed(weight, inverse=False)

    def unrotated(self, stored: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """The rows of a weight [N, K] that `stored` ones stand for."""
        return self._transformed(stored, inverse=True)

    def _transformed(self, rows: npt.NDArray[np.floating], *, inverse: bool) -> npt.NDArray[np.float32]:
        result = np.empty(rows.shape, np.float32)
        for begin in range(0, len(rows), step := max(1, _ELEMENTS // rows.shape[1])):
            part = slice(begin, begin + step)
            result[part] = signed_hadamard(rows[part], self.signs, self.block_size, inverse)
        return result


def block_of(K: int, largest: int) -> int | None:
    """The block of K inputs: the largest power of two that divides K, up to `largest`; None where that is small."""
    block_size = min(K & -K, largest)
    return block_size if block_size >= LEAST_BLOCK else None


def random_rotation(K: int, largest: int, seed: int) -> Rotation | None:
    """A rotation of K inputs in blocks of `block_of`; None where there is none.

    Its signs depend on K and the seed alone, so that all layers of so many inputs share them.
    """
    block_size = block_of(K, largest)
    if block_size is None:
        return None
    signs = np.random.default_rng((seed, K)).integers(0, 2, K, np.int8)
    return Rotation(block_size, 1 - 2 * signs)
