"""Shapes and tensors of the contract for property tests."""

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from dualbinary import pack_planes, padded_k


@dataclass(frozen=True)
class Case:
    """A quantised weight: bits [P, N, K], planes in layout 1 and scales [C, N, Kp/G]."""

    N: int
    K: int
    group_size: int
    bits: np.ndarray
    planes: np.ndarray
    scales: np.ndarray
    rng: np.random.Generator


@st.composite
def cases(draw) -> Case:
    """Any number of planes, with and without offset, ragged or not, of either scale type."""
    K = draw(st.integers(1, 200))
    group_size = 32 * draw(st.integers(1, -(-K // 32)))
    P, N = draw(st.integers(1, 8)), draw(st.integers(1, 5))
    offset, dtype = draw(st.booleans()), draw(st.sampled_from([np.float16, np.float32]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    bits = rng.integers(0, 2, (P, N, K))
    scales = rng.standard_normal((P + offset, N, padded_k(K, group_size) // group_size)).astype(dtype)
    return Case(N, K, group_size, bits, pack_planes(bits, group_size), scales, rng)
