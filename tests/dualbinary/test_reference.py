import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualbinary import InputError, dequantize, dual_binary_matmul, pack_planes
from tests.support.strategies import cases


@given(cases(), st.lists(st.integers(0, 3), max_size=3), st.sampled_from([np.float16, np.float32]))
def test_matmul_any_case_is_the_dense_product_in_float64(case, leading, dtype):
    x = case.rng.standard_normal((*leading, case.K)).astype(dtype)
    y = dual_binary_matmul(x, case.planes, case.scales, K=case.K, N=case.N, group_size=case.group_size)
    weight = dequantize(case.planes, case.scales, case.K, case.group_size)
    assert y.dtype == np.float64
    assert y.shape == (*leading, case.N)
    # Both sides sum at most C * K products; every rounding is at most eps of the sum of their absolute values.
    largest = np.abs(x).astype(np.float64).sum(-1, keepdims=True) * np.abs(case.values).sum()
    terms = len(case.scales) * case.K
    assert (np.abs(y - x.astype(np.float64) @ weight.T) <= 2 * terms * np.finfo(np.float64).eps * largest).all()


def matmul_of_row(x, bits, scales):
    planes = pack_planes(np.array(bits)[:, None], 32)
    scales = np.array(scales, np.float32)[:, None, None]
    return dual_binary_matmul(np.array(x, np.float32), planes, scales, K=len(x), N=1, group_size=32)[0]


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_matmul_special_input_reaches_only_planes_that_select_it(special):
    assert matmul_of_row([1, special], [[1, 0]], [2]) == 2
    np.testing.assert_equal(matmul_of_row([1, special], [[0, 1]], [2]), special)


def test_matmul_infinity_with_scale_zero_is_nan():
    assert np.isnan(matmul_of_row([1, np.inf], [[0, 1]], [0]))


def test_matmul_infinity_reaches_the_offset_whatever_the_planes_select():
    assert matmul_of_row([1, np.inf], [[1, 0]], [2, 1]) == np.inf
    assert np.isnan(matmul_of_row([np.inf, -np.inf], [[0, 0]], [1, 1]))


def test_matmul_wrong_planes_is_refused():
    with pytest.raises(InputError, match=r"planes: expected shape"):
        dual_binary_matmul(
            np.ones((1, 64)), np.zeros((2, 3, 4), np.uint8), np.ones((2, 3, 1), np.float16), K=64, N=3, group_size=64
        )
