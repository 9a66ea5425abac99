"""Every form of even levels that a type of GGUF holds comes back from its blocks: to the bit, or within a rounding."""

from typing import get_args

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualbinary.contract.scale_codes import round_scales
from dualbinary.contract.weight import EACH_GROUP, PlaneFormat, PlaneWeight
from importer.convert.__main__ import Type
from importer.convert.gguf.blocks import FORMS, blocks_of
from importer.convert.levels import ROUNDING, even_levels
from importer.readers.gguf.blocks import FORMS as READ
from importer.readers.gguf.blocks import read_numbers
from tests.support.gguf_files import dequantized

BY_NAME = {form.name: form for form in FORMS}
BY_LIBRARY = {"TQ2_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"}  # gguf 0.19 dequantizes no others of ours


@st.composite
def weights(draw):
    """An even weight of any form, in groups of 16 to a row."""
    planes = draw(st.integers(1, 8))
    K = draw(st.sampled_from([32, 64, 256, 512]))
    size = draw(st.sampled_from([size for size in (16, 32, 64, 96, 128, 256) if size <= K]))
    most = (1 << planes) - 1
    offset = draw(st.booleans())
    zero = 0 if offset else draw(st.one_of(st.just(EACH_GROUP), st.integers(0, 2 * most).map(lambda twice: twice / 2)))
    codes = draw(st.booleans())
    form = PlaneFormat(
        planes, size, offset, levels="even", zero=zero, scale_dtype=np.dtype(np.uint8 if codes else np.float16)
    )
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    N, groups = 3, -(-K // size)
    q = rng.integers(0, draw(st.integers(1, most)) + 1, (N, K))
    scales = (0.02 * rng.standard_normal((form.scale_rows, N, groups))).astype(np.float16)
    if draw(st.booleans()):
        scales[:] = scales[:, :, :1]  # blocks of several groups
    zeros = rng.integers(0, most + 1, (N, groups)) if zero == EACH_GROUP else None
    return PlaneWeight.pack_even(q, round_scales(scales) if codes else scales, form, zeros)


def read_back(blocks):
    """The weight in the blocks, as the reader sees it."""
    N, K = blocks.q.shape
    numbers = read_numbers(READ[blocks.form.name], blocks.pack(), N, K, blocks.form.weights, "weight")
    return dequantized(numbers)


@given(weights())
def test_blocks_give_the_weight_back(weight):
    levels = even_levels(weight)
    assert levels is not None
    expected = weight.dequantize()
    for form in FORMS:
        blocks = blocks_of(levels, form)
        if blocks is None or blocks.rounding > ROUNDING:
            continue
        got = read_back(blocks)
        least = 2.0**-14  # to which roundings of smaller scales are related
        largest = max(np.abs(levels.step).max(), least) * levels.q.max() + max(np.abs(levels.offset).max(), least)
        if blocks.rounding == 0 and not form.offset:
            assert np.array_equal(got, expected.astype(np.float32)), form.name
        else:  # d q + m in float32 rounds both terms to 24 bits, and each scale by what was said
            assert np.abs(got - expected).max() <= (blocks.rounding + 2.0**-23) * largest, form.name
        if form.name in BY_LIBRARY:
            theirs = gguf.dequantize(blocks.pack(), gguf.GGMLQuantizationType[form.name])
            assert np.array_equal(got, theirs), form.name


@pytest.mark.parametrize(
    ("planes", "size", "zero", "offset", "expected"),
    [
        (1, 128, 0.5, False, "Q1_0"),
        (2, 256, 1, False, "Q2_0"),
        (2, 64, 2, False, "Q2_0"),  # the other way around
        (2, 32, 1, False, "Q4_0"),
        (2, 128, EACH_GROUP, False, "Q4_0"),
        (3, 128, 3.5, False, "Q4_0"),
        (4, 32, 8, False, "Q4_0"),
        (4, 32, 7, False, "Q4_0"),
        (4, 32, 7.5, False, "Q5_0"),
        (4, 64, EACH_GROUP, False, "Q5_0"),
        (4, 32, 0, True, "Q4_1"),
        (5, 32, 0, True, "Q5_1"),
        (6, 32, 32, False, "Q8_0"),
        (8, 64, 128, False, "Q8_0"),
        (8, 32, 127.5, False, None),
        (6, 32, 0, True, None),
        (4, 16, 8, False, None),
    ],
)
def test_the_smallest_exact_type(planes, size, zero, offset, expected):
    rng = np.random.default_rng(1)
    form = PlaneFormat(planes, size, offset, levels="even", zero=zero)
    q = rng.integers(0, 1 << planes, (4, 256))
    q[:, :2] = (0, (1 << planes) - 1)
    zeros = rng.integers(0, 1 << planes, (4, 256 // size)) if zero == EACH_GROUP else None
    scales = (rng.uniform(0.01, 0.02, (form.scale_rows, 4, 256 // size))).astype(np.float16)
    weight = PlaneWeight.pack_even(q, scales, form, zeros)
    levels = even_levels(weight)
    assert levels is not None
    blocks = [found for form in FORMS if (found := blocks_of(levels, form)) is not None and found.rounding == 0]
    assert (blocks[0].form.name if blocks else None) == expected
    if blocks:
        assert np.allclose(read_back(blocks[0]), weight.dequantize(), rtol=0, atol=2.0**-22)  # rounded in float32 once


def test_the_command_offers_the_types_of_the_table():
    assert get_args(Type) == tuple(BY_NAME)


def test_ternary_numbers_of_two_planes_are_ternary():
    q = np.tile([0, 1, 2, 2], (2, 64))
    form = PlaneFormat(2, 256, levels="even", zero=1)
    levels = even_levels(PlaneWeight.pack_even(q, np.full((1, 2, 1), 0.5, np.float16), form))
    assert levels is not None
    assert next(form.name for form in FORMS if blocks_of(levels, form) is not None) == "TQ2_0"


@pytest.mark.parametrize(
    ("scales", "expected"),
    [
        ([0.5, 1.0], "Q4_1"),  # one step and two: even, with an offset that is no number of steps
        ([0.25, 0.25], "Q4_1"),
        ([-0.5, 1.0], "Q4_1"),
        ([0.5, 0.75], None),
    ],
)
def test_free_levels_that_are_even_are_found(scales, expected):
    rng = np.random.default_rng(2)
    values = np.broadcast_to(np.array([*scales, 0.3])[:, None, None], (3, 4, 2)).astype(np.float16)
    weight = PlaneWeight.pack(rng.integers(0, 2, (2, 4, 64)), values, 32)
    levels = even_levels(weight)
    if expected is None:
        assert levels is None
        return
    assert levels is not None
    blocks = blocks_of(levels, BY_NAME[expected])
    assert blocks is not None
    assert blocks.rounding <= ROUNDING
    assert np.allclose(read_back(blocks), weight.dequantize(), rtol=2.0**-10)
