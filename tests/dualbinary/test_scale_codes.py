import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualbinary import InputError
from dualbinary.contract.scale_codes import factors_of, round_scales, scale_columns, scale_values

LARGEST = 65504.0  # of float16
finite = st.floats(-LARGEST, LARGEST, width=16)


@given(st.lists(st.tuples(finite, st.lists(st.integers(0, 255), min_size=3, max_size=3)), min_size=1, max_size=4))
def test_values_are_those_of_the_formula(rows):
    scales = np.array([[[*struct.pack("<e", factor), *codes] for factor, codes in rows]], np.uint8)
    values = [[factor * (code - 128) / 128 for code in codes] for factor, codes in rows]
    np.testing.assert_array_equal(scale_values(scales)[0], values)
    np.testing.assert_array_equal(factors_of(scales)[0], [factor for factor, _ in rows])
    # Every value is a float32, so that kernels in float32 lose nothing.
    np.testing.assert_array_equal(scale_values(scales).astype(np.float32), scale_values(scales))


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 40),
    st.floats(-20, 15),
    st.booleans(),
)
def test_rounded_row_is_at_least_as_near_as_codes_of_its_largest_scale(seed, C, N, groups, exponent, one_sided):
    values = np.random.default_rng(seed).standard_normal((C, N, groups)) * 2.0**exponent
    values = np.clip(np.abs(values) if one_sided else values, -LARGEST, LARGEST)
    scales = round_scales(values)
    assert scales.shape == (C, N, 2 + groups)
    error = np.square(scale_values(scales) - values).sum(axis=2)
    # What the first trial promises: the factor is the largest scale m, rounded to float16. A code is off by half a step
    # m/128, or by a whole one next to the largest scale's negative, which 127 steps do not reach; and the factor by
    # 2^-11 of itself, or 2^-25.
    m = np.abs(values).max(axis=2)
    most = m / 128 + m * 2.0**-11 + 2.0**-25
    assert (error <= groups * np.square(most)).all()


def test_rounding_is_nearer_than_codes_of_the_largest_scale():
    values = np.random.default_rng(0).uniform(0.5, 1, (2, 100, 16))
    largest = values.max(axis=2, keepdims=True)
    plain = np.rint(values / largest * 127) * largest / 127
    error = np.square(scale_values(round_scales(values)) - values).sum()
    assert error < 0.8 * np.square(plain - values).sum()  # 0.72 when this was written


@given(st.lists(finite, min_size=1, max_size=20))
def test_a_scale_alone_in_its_row_is_exact(values):
    scales = np.array(values)[None, :, None]
    np.testing.assert_array_equal(scale_values(round_scales(scales)), scales)


def test_zeros_stay_zero_and_scales_below_float16_become_zero():
    scales = round_scales(np.array([[[0.0, -0.0], [1e-9, -1e-9]]]))
    np.testing.assert_array_equal(scale_values(scales), np.zeros((1, 2, 2)))


def test_scales_that_codes_can_hold_come_back():
    codes = np.arange(256)
    values = (-3 * (codes - 128) / 128)[None, None]
    np.testing.assert_array_equal(scale_values(round_scales(values)), values)


def test_scale_beyond_float16_is_refused_by_row():
    values = np.ones((2, 3, 2))
    values[1, 2, 1] = -65505
    with pytest.raises(InputError, match="proj: row 12 needs a scale of -65505, expected at most 65504"):
        round_scales(values, "proj", first_row=10)


def test_float_scales_are_their_own_values():
    scales = np.array([[[0.5, -2]]], np.float16)
    values = scale_values(scales)
    assert values.dtype == np.float64
    np.testing.assert_array_equal(values, scales)


def test_columns_count_the_factor_where_there_is_one():
    assert [scale_columns(5, dtype) for dtype in (np.float16, np.float32, np.uint8)] == [5, 5, 7]
