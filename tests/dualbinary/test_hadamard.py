"""SignedHadamard's reference against its formula, term by term, and its golden vectors."""

import hashlib
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given

from dualbinary import HADAMARD, InputError, signed_hadamard
from dualbinary.contract.golden import hadamard as golden
from dualbinary.contract.hadamard import hadamard_matrix
from tests.support.hadamards import cases, make_case


def parity(block_size: int) -> np.ndarray:
    """(-1)^popcount(k & j), as the formula has it."""
    return np.array([[(-1) ** (k & j).bit_count() for j in range(block_size)] for k in range(block_size)])


@pytest.mark.parametrize("block_size", [1, 2, 4, 8, 128])
def test_the_matrix_is_the_parity_of_common_bits(block_size):
    np.testing.assert_array_equal(hadamard_matrix(block_size), parity(block_size))


@given(cases(256))
def test_the_reference_is_the_formula(case):
    y = case.expected
    size = case.block_size
    blocks = case.x.astype(np.float64) * (1 if case.inverse else case.signs)
    blocks = blocks.reshape(-1, size) @ parity(size) / size**0.5
    expected = blocks.reshape(case.x.shape) * (case.signs if case.inverse else 1)
    assert y.dtype == np.float64
    # Sums of `size` terms on one side, of log2(size) on the other.
    assert (np.abs(y - expected) <= 2 * size * np.finfo(np.float64).eps * case.sums).all()


@given(cases(256))
def test_one_transform_undoes_the_other(case):
    back = signed_hadamard(case.expected, case.signs, case.block_size, not case.inverse)
    np.testing.assert_allclose(back, case.x.astype(np.float64), atol=1e-12)


def test_special_inputs_reach_their_block_alone():
    case = make_case((1,), 64, 16)
    case.x[0, 20] = np.inf
    y = case.expected
    assert np.isinf(y[0, 16:32]).all()
    assert np.isfinite(np.delete(y, range(16, 32))).all()


@pytest.mark.parametrize(
    ("K", "block_size", "signs", "message"),
    [
        (64, 48, np.ones(64, np.int8), "block_size: expected a power of two from 2 to 32768, got 48"),
        (64, 1, np.ones(64, np.int8), "block_size: expected a power of two from 2 to 32768, got 1"),
        (65536, 65536, np.ones(65536, np.int8), "block_size: .* got 65536"),
        (96, 64, np.ones(96, np.int8), r"signs: expected as many .* block_size=64, got shape \[96\] for 96 inputs"),
        (64, 64, np.ones(32, np.int8), r"got shape \[32\] for 64 inputs"),
        (64, 64, np.ones((1, 64), np.int8), r"got shape \[1, 64\] for 64 inputs"),
        (0, 64, np.ones(0, np.int8), r"got shape \[0\] for 0 inputs"),
        (64, 64, np.zeros(64, np.int8), "signs: expected 1 or -1"),
        (64, 64, np.full(64, -128, np.int8), "signs: expected 1 or -1"),
    ],
)
def test_wrong_arguments_are_refused(K, block_size, signs, message):
    with pytest.raises(InputError, match=message):
        signed_hadamard(np.zeros((2, K), np.float32), signs, block_size)


@pytest.mark.parametrize("case", golden.load(), ids=lambda case: case["name"])
def test_golden_y_is_exactly_the_formula(case):
    K, size = case["K"], case["block_size"]
    root = int(size**0.5)
    assert root * root == size
    x, signs = [Fraction(value) for value in case["x"]], case["signs"]
    for row in range(case["M"]):
        for k in range(K):
            block = range(k - k % size, k - k % size + size)
            total = sum(
                (-1) ** (k % size & j % size).bit_count() * (1 if case["inverse"] else signs[j]) * x[row * K + j]
                for j in block
            )
            expected = total / root * (signs[k] if case["inverse"] else 1)
            assert Fraction(case["y"][row * K + k]) == expected


def test_the_golden_file_never_changes():
    assert hashlib.sha256(golden.text().encode()).hexdigest()[:16] == "2c79e56765337f20"
    assert {case["inverse"] for case in golden.load()} == {0, 1}
    y = np.concatenate([case["y"] for case in golden.load()])
    np.testing.assert_array_equal(y.astype(np.float16), y)


def test_the_limit_of_the_contract_is_that_of_its_text():
    assert f"at most {HADAMARD.limits['max_block_size']}," in HADAMARD.attribute("block_size").text
