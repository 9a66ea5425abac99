import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dualbinary import InputError
from dualbinary.contract.scale_codes import BFLOAT16, scale_values
from dualbinary.contract.weight import EACH_GROUP, PER_CHANNEL, PlaneFormat
from dualbinary.fitting.closed_form import fit

OFFSET = "offset"


def even(planes, group_size, zero, scale_dtype="float16", **fields):
    offset = zero == OFFSET
    dtype = BFLOAT16 if scale_dtype == "bfloat16" else np.dtype(scale_dtype)
    return PlaneFormat(planes, group_size, offset, "even", 0 if offset else zero, dtype, **fields)


def gaussian(rows, columns, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


# What a search over 150 steps a group (80 steps and 12 places with an offset) finds, plus 2 %: a lost start shows.
@pytest.mark.parametrize(
    ("planes", "group_size", "zero", "found"),
    [
        (1, 64, 0.5, 0.3545),
        (2, 64, 1, 0.1237),
        (2, 64, 1.5, 0.1138),
        (2, 64, OFFSET, 0.1025),
        (3, 64, 4, 0.03148),
        (4, 32, 8, 0.00653),
        (4, 32, EACH_GROUP, 0.00583),
        (4, 32, OFFSET, 0.00482),
        (4, 1024, 8, 0.01135),
        (8, 64, 128, 0.000032),
    ],
)
def test_fit_even_gaussian_weight_reaches_what_a_long_search_finds(planes, group_size, zero, found):
    weight = gaussian(16, 1024, seed=1)
    assert fit(weight, even(planes, group_size, zero, "float32")).relative_error <= found * 1.02


@settings(max_examples=60)
@given(
    st.integers(1, 8),
    st.sampled_from([16, 32, 64, PER_CHANNEL]),
    st.sampled_from([0, 0.5, 1, 8, 127.5, EACH_GROUP, OFFSET]),
    st.sampled_from(["float16", "float32", "bfloat16", "uint8"]),
    st.integers(1, 150),
    st.integers(0, 2**32 - 1),
)
def test_fit_even_reports_the_error_that_dequantize_shows_in_every_form(planes, size, zero, dtype, k, seed):
    if isinstance(zero, (int, float)):
        zero = min(zero, (1 << planes) - 1)
    weight = gaussian(3, k, seed)
    form = even(planes, size if k > size else PER_CHANNEL, zero, dtype)
    fitted = fit(weight, form)
    fitted.weight.check()
    assert fitted.weight.format == form.for_inputs(k)
    error = np.square(weight - fitted.weight.dequantize()).sum()
    assert fitted.squared_error == pytest.approx(error, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(
    ("planes", "zero", "low", "high"),
    [(1, 0.5, 0, 1), (2, 1, 0, 2), (2, 1, -1, 2), (2, 1.5, 0, 3), (4, 8, 0, 15), (8, 128, 0, 255)],
)
def test_fit_even_weight_on_its_own_grid_is_exact_with_either_sign_of_the_step(planes, zero, low, high):
    rng = np.random.default_rng(planes)
    q = rng.integers(max(low, 0), high + 1, (4, 128))
    q[:, ::32], q[:, 1::32] = max(low, 0), high
    step = rng.uniform(0.01, 0.1, (4, 4)).astype(np.float16).astype(np.float64)
    step[::2] *= -1
    weight = (q - zero) * np.repeat(step, 32, axis=1)
    assert fit(weight.astype(np.float32), even(planes, 32, zero)).relative_error < 1e-12


def test_fit_even_of_one_tensor_has_one_step():
    rng = np.random.default_rng(0)
    weight = (0.037 * rng.integers(-1, 2, (300, 96))).astype(np.float32)
    fitted = fit(weight, even(2, PER_CHANNEL, 1, "float32", per_tensor=True))
    assert fitted.weight.scales.shape == (1, 1, 1)
    assert fitted.relative_error < 1e-13
    assert fit(gaussian(300, 96), even(2, PER_CHANNEL, 1, per_tensor=True)).relative_error < 0.16


def test_fit_even_bfloat16_scales_are_rounded_to_nearest():
    weight = gaussian(8, 64)
    wide, narrow = (fit(weight, even(4, 32, 8, dtype)).weight for dtype in ("float32", "bfloat16"))
    np.testing.assert_allclose(scale_values(narrow.scales), wide.scales, rtol=2**-8)
    with pytest.raises(InputError, match=r"needs a scale of .*for bfloat16"):
        fit(np.full((1, 32), 3.4e38, np.float32), even(1, 32, 0.5, "bfloat16"))


def test_fit_even_zeros_is_zeros():
    for zero in (0.5, 1, EACH_GROUP, OFFSET):
        assert not fit(np.zeros((2, 40)), even(2, 32, zero)).weight.dequantize().any()


def test_fit_even_with_threads_is_the_same():
    weight = gaussian(300, 1024)
    one, two = (fit(weight, even(4, 32, EACH_GROUP), threads=threads) for threads in (1, 2))
    np.testing.assert_array_equal(one.weight.planes, two.weight.planes)
    np.testing.assert_array_equal(one.weight.scales, two.weight.scales)
