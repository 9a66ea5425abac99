"""Cases of SignedHadamard."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from dualbinary import signed_hadamard

DTYPES = (np.float32, np.float16)


@dataclass(frozen=True, eq=False)
class Case:
    """An input [.., K] and the transform of it."""

    x: npt.NDArray[np.floating]
    signs: npt.NDArray[np.int8]
    block_size: int
    inverse: int

    @property
    def K(self) -> int:
        """Inputs."""
        return len(self.signs)

    @property
    def expected(self) -> npt.NDArray[np.float64]:
        """What the reference gives."""
        return signed_hadamard(self.x, self.signs, self.block_size, bool(self.inverse))

    @property
    def sums(self) -> npt.NDArray[np.float64]:
        """[.., K]: for each output, the sum of the absolute values of its terms."""
        blocks = np.abs(self.x.astype(np.float64)).reshape(*self.x.shape[:-1], self.K // self.block_size, self.block_size)
        totals = blocks.sum(-1, keepdims=True) * self.block_size**-0.5
        return np.broadcast_to(totals, blocks.shape).reshape(self.x.shape)


def make_case(lead=(2,), K=64, block_size=16, inverse=0, dtype=np.float32, seed=0) -> Case:
    """A case of normal inputs."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((*lead, K)).astype(dtype)
    return Case(x, rng.choice(np.array([-1, 1], np.int8), K), block_size, inverse)


@st.composite
def cases(draw: st.DrawFn, largest: int = 4096) -> Case:
    """Any shape with rows of at most `largest` inputs, or one block more."""
    block_size = 1 << draw(st.integers(1, largest.bit_length() - 1))
    blocks = draw(st.integers(1, max(1, min(20, largest // block_size))))
    lead = draw(st.sampled_from([(), (1,), (3,), (0,), (2, 3), (9,)]))
    inverse, dtype = draw(st.sampled_from([0, 1])), draw(st.sampled_from(DTYPES))
    return make_case(lead, blocks * block_size, block_size, inverse, dtype, draw(st.integers(0, 99)))


def roundings(dtype: npt.DTypeLike) -> float:
    """The error of a number too small to be a normal one of the type."""
    return float(np.finfo(dtype).smallest_subnormal)
