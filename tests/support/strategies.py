"""Quantized weights of any shape and type: for property tests of the contract, of calib's measures and of unpacking."""

import struct
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from dualbinary import pack_planes, padded_k


@dataclass(frozen=True)
class Case:
    """A quantized weight: bits [P, N, K], planes in layout 1, scales as stored, and their values [C, N, Kp/G]."""

    N: int
    K: int
    group_size: int
    bits: np.ndarray
    planes: np.ndarray
    scales: np.ndarray
    values: np.ndarray
    rng: np.random.Generator


FLOATS: tuple[type, ...] = (np.float16, np.float32)
"""Types of scales that training knows; the contract's others come with the export."""


@st.composite
def cases(draw, scale_types: tuple[type, ...] = (*FLOATS, np.uint8), max_outputs: int = 5) -> Case:
    """Any number of planes, with and without offset, ragged or not, of any of `scale_types`."""
    K = draw(st.integers(1, 200))
    group_size = 32 * draw(st.integers(1, -(-K // 32)))
    P, N = draw(st.integers(1, 8)), draw(st.integers(1, max_outputs))
    offset, dtype = draw(st.booleans()), draw(st.sampled_from(scale_types))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    bits = rng.integers(0, 2, (P, N, K))
    shape = (P + offset, N, padded_k(K, group_size) // group_size)
    scales, values = _coded_scales(rng, shape) if dtype == np.uint8 else _float_scales(rng, shape, dtype)
    return Case(N, K, group_size, bits, pack_planes(bits, group_size), scales, values, rng)


def _float_scales(rng: np.random.Generator, shape: tuple[int, ...], dtype: type) -> tuple[np.ndarray, np.ndarray]:
    scales = rng.standard_normal(shape).astype(dtype)
    return scales, scales.astype(np.float64)


def _coded_scales(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Any codes after any factors, and their values one by one."""
    scales = np.empty((*shape[:2], 2 + shape[2]), np.uint8)
    values = np.empty(shape)
    for c, n in np.ndindex(shape[:2]):
        codes = rng.integers(0, 256, shape[2]).tolist()
        head = struct.pack("<e", rng.standard_normal())
        (factor,) = struct.unpack("<e", head)
        scales[c, n] = [*head, *codes]
        values[c, n] = [factor * (code - 128) / 128 for code in codes]
    return scales, values
