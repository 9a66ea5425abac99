"""Integers out of words: every order, packed by the slow packers, over widths and shapes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from importer.readers import words
from tests.support import packed_words as slow

WIDTHS = st.integers(1, 8)
SEEDS = st.integers(0, 2**32 - 1)


def values(seed, bits, *shape):
    return np.random.default_rng(seed).integers(0, 2**bits, shape, dtype=np.uint8)


@given(WIDTHS, st.integers(1, 5), st.integers(1, 80), SEEDS)
def test_dense_words_are_read_as_they_were_packed(bits, rows, count, seed):
    expected = values(seed, bits, rows, count)
    packed = slow.dense(expected, bits)
    assert packed.shape[1] == words.dense_words(bits, count)
    np.testing.assert_array_equal(words.dense(packed, bits, count), expected)


@given(WIDTHS, st.integers(1, 5), st.integers(1, 80), SEEDS)
def test_padded_words_are_read_as_they_were_packed(bits, rows, count, seed):
    expected = values(seed, bits, rows, count)
    packed = slow.padded(expected, bits)
    assert packed.shape[1] == words.padded_words(bits, count)
    np.testing.assert_array_equal(words.padded(packed, bits, count), expected)


@given(st.integers(2, 8), st.integers(1, 4), st.integers(1, 3), SEEDS)
def test_planar_words_are_read_as_they_were_packed(bits, rows, blocks, seed):
    expected = values(seed, bits, rows, 32 * blocks)
    np.testing.assert_array_equal(words.planar(slow.planar(expected, bits), bits, 32 * blocks), expected)


@pytest.mark.parametrize(("bits", "dtype"), [(1, "u1"), (2, "u1"), (4, "u1"), (8, "u1"), (3, "i4")])
@pytest.mark.parametrize("first_high", [True, False])
@given(rows=st.integers(1, 70), seed=SEEDS)
def test_stacked_rows_are_read_as_they_were_packed(bits, dtype, first_high, rows, seed):
    expected = values(seed, bits, rows, 3)
    packed = slow.stacked_rows(expected, bits, dtype, first_high)
    np.testing.assert_array_equal(words.stacked_rows(packed, bits, rows, first_high=first_high), expected)


def test_a_word_is_read_from_any_memory_layout():
    expected = values(1, 3, 64, 96)
    packed = np.asfortranarray(slow.dense(expected, 3))
    np.testing.assert_array_equal(words.dense(packed, 3, 96), expected)
