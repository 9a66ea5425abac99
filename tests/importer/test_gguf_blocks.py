"""Blocks of every type: the numbers of the gguf library to the bit, or of a reference written from the description."""

from collections.abc import Iterable

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualbinary import InputError
from importer.model import Numbers
from importer.readers.gguf.blocks import FORMS, read_numbers
from importer.readers.gguf.types import TYPES
from tests.support.folded_models import PACKERS
from tests.support.gguf_files import Type, dequantized

OF_OTHERS = (42, 142, 143)  # types that the library does not know
K_TYPES = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
STORED = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0")
KINDS = {form.name: form for forms in TYPES.values() for form in forms}
# where the float16 numbers of a block are, by its type: those of ggml-common.h
HALVES = {"Q4_1": (0, 2), "Q5_1": (0, 2), "TQ1_0": (52,), "TQ2_0": (64,), "Q2_K": (80, 82), "Q3_K": (108,)}
HALVES |= {"PTQ1_0": (26,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}

shapes = st.tuples(st.integers(1, 5), st.integers(1, 3))  # rows, blocks in a row
seeds = st.integers(0, 2**32 - 1)


def blocks(name: str, shape: tuple[int, int], seed: int, halves: Iterable[float] | None = None) -> np.ndarray:
    """Random blocks [rows * blocks of a row, size]; float16 numbers in them are any finite ones or of `halves`."""
    random = np.random.default_rng(seed)
    data = random.integers(0, 256, (shape[0] * shape[1], KINDS[name].size), dtype=np.uint8)
    for at in HALVES.get(name, (0,)):
        if halves is None:
            values = random.integers(0, 0x7C00, len(data), dtype=np.uint16) | random.choice([0, 0x8000], len(data))
        else:
            values = random.choice(np.array(list(halves), np.float16), len(data)).view(np.uint16)
        data[:, at : at + 2] = values.astype("<u2").view(np.uint8).reshape(-1, 2)
    return data


def read(name: str, data: np.ndarray, rows: int) -> Numbers:
    K = len(data) // rows * KINDS[name].weights
    numbers = read_numbers(FORMS[name], data.reshape(-1), rows, K, KINDS[name].weights, "blk.0.attn_q.weight")
    groups = K // FORMS[name].group_size
    assert numbers.q.shape == (rows, K)
    assert numbers.q.max() < 1 << FORMS[name].bits
    assert numbers.step.shape == (rows, groups)
    assert (numbers.zero is None) == (numbers.offset is not None)
    return numbers


def of_the_library(name: str, data: np.ndarray, rows: int) -> np.ndarray:
    return gguf.dequantize(data.reshape(rows, -1), Type[name])


def test_sizes_of_types_are_those_of_the_library():
    ours = {
        forms[0].name: (forms[0].weights, forms[0].size) for number, forms in TYPES.items() if number not in OF_OTHERS
    }
    assert ours == {kind.name: sizes for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    assert all(TYPES[kind.value][0].name == kind.name for kind in gguf.GGML_QUANT_SIZES)


@pytest.mark.parametrize("name", STORED)
@given(shape=shapes, seed=seeds)
def test_a_type_with_stored_scales_is_exact(name, shape, seed):
    data = blocks(name, shape, seed)
    numbers = read(name, data, shape[0])
    assert numbers.step.dtype == np.float16
    assert numbers.rounding == 0
    assert np.array_equal(dequantized(numbers), of_the_library(name, data, shape[0]))


@pytest.mark.parametrize("name", K_TYPES)
@given(shape=shapes, seed=seeds)
def test_scales_of_a_k_type_that_float16_holds_are_exact(name, shape, seed):
    # a power of two by up to 8 bits: float16 has 11, and its normal numbers begin at 2^-14
    data = blocks(name, shape, seed, halves=[2.0**e for e in range(-14, 3)])
    numbers = read(name, data, shape[0])
    assert numbers.step.dtype == np.float16
    assert numbers.rounding == 0
    assert np.array_equal(dequantized(numbers), of_the_library(name, data, shape[0]))


@pytest.mark.parametrize("name", K_TYPES)
@given(shape=shapes, seed=seeds)
def test_scales_of_a_k_type_are_rounded_once_or_not_at_all(name, shape, seed):
    data = blocks(name, shape, seed)
    numbers = read(name, data, shape[0])
    expected = of_the_library(name, data, shape[0])
    if numbers.step.dtype == np.float32:
        assert numbers.rounding == 0
        assert np.array_equal(dequantized(numbers), expected)
        return
    assert 0 <= numbers.rounding <= 2**-11
    size = FORMS[name].group_size
    step = np.abs(numbers.step.astype(np.float64)).repeat(size, axis=1)
    offset = 0 if numbers.offset is None else np.abs(numbers.offset.astype(np.float64)).repeat(size, axis=1)
    parts = step * np.abs(numbers.q - (numbers.zero or 0)) + offset
    # the rounding itself, and a rounding of float32 for the product and one for the sum in either computation
    bound = (numbers.rounding * (1 + 2**-10) + 4 * 2.0**-24) * parts
    assert (np.abs(dequantized(numbers).astype(np.float64) - expected) <= bound).all()


@pytest.mark.parametrize("name", K_TYPES)
def test_scales_of_a_k_type_beyond_float16_stay_float32(name):
    data = blocks(name, (3, 2), 0, halves=[60000.0])
    numbers = read(name, data, 3)
    assert numbers.step.dtype == np.float32
    assert numbers.rounding == 0
    assert np.array_equal(dequantized(numbers), of_the_library(name, data, 3))


@pytest.mark.parametrize("name", ["Q1_0", "Q2_0", "Q2_0 of 128"])
@given(shape=shapes, seed=seeds)
def test_one_and_two_bits_are_as_described(name, shape, seed):
    data = blocks(name, shape, seed)
    expected = []
    for block in data:
        d = float(block[:2].view("<f2")[0])
        for weight in range(KINDS[name].weights):
            if name == "Q1_0":  # eight bits to a byte, the lowest first: d or -d
                expected.append(d if block[2 + weight // 8] >> weight % 8 & 1 else -d)
            else:  # four codes to a byte, the lowest first: -d, 0, d, 2d
                expected.append((int(block[2 + weight // 4] >> 2 * (weight % 4) & 3) - 1) * d)
    numbers = read(name, data, shape[0])
    assert np.array_equal(dequantized(numbers).reshape(-1), np.array(expected, np.float32))


def test_a_large_weight_is_read_in_several_pieces():
    rows, count = 5, 1 << 15
    data = blocks("Q4_1", (rows, count), 1)
    assert np.array_equal(dequantized(read("Q4_1", data, rows)), of_the_library("Q4_1", data, rows))


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_scale_that_is_not_finite_is_refused(name, value):
    data = blocks(name, (2, 2), 0, halves=[1.0])
    at = HALVES.get(name, (0,))[-1]
    data[-1, at : at + 2] = np.array([value], np.float16).view(np.uint8)
    if name in K_TYPES:
        data[-1, [byte for byte in range(KINDS[name].size) if not at <= byte < at + 2]] |= 1  # no factor is 0
    with pytest.raises(InputError, match=r"blk\.0\.attn_q\.weight: a (step|offset) is not finite"):
        read(name, data, 2)


@given(st.sampled_from(sorted(PACKERS)), shapes, seeds)
def test_blocks_of_folded_models_are_read_as_they_were_packed(name, shape, seed):
    rng = np.random.default_rng(seed)
    q = rng.integers(0, 3, (shape[0], 128 * shape[1]))
    steps = rng.standard_normal(shape).astype(np.float16)
    numbers = read(name, PACKERS[name](q, steps).reshape(shape[0] * shape[1], -1), shape[0])
    np.testing.assert_array_equal(numbers.q, q)
    np.testing.assert_array_equal(numbers.step, steps)
    assert numbers.zero == 1
