"""Numbers that a reader gives become planes of the same values, in the smallest form that says them."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualbinary import InputError
from dualbinary.contract.scale_codes import dtype_name
from dualbinary.contract.weight import EACH_GROUP
from importer.model import Numbers, PackedWeight
from importer.planes import plane_weight


def described(numbers: Numbers, bits: int, group_size: int) -> PackedWeight:
    N, K = numbers.q.shape
    return PackedWeight("test", N, K, bits, group_size, bits, lambda: numbers)


def values(numbers: Numbers, group_size: int) -> np.ndarray:
    """What the numbers stand for, column by column."""
    N, K = numbers.q.shape
    group = np.arange(K) // (group_size if group_size > 0 else K)

    def column(array):
        array = np.asarray(array, np.float64)
        return np.broadcast_to(array, (N, 1)) if array.size == 1 else array[:, group]

    if numbers.offset is not None:
        return column(numbers.step) * numbers.q + column(numbers.offset)
    return column(numbers.step) * (numbers.q - column(numbers.zero))


@st.composite
def cases(draw):
    bits, N, K = draw(st.integers(1, 8)), draw(st.integers(1, 5)), draw(st.integers(1, 200))
    group_size = draw(st.sampled_from([16, 32, 64, 96, 128, -1]))
    groups = 1 if group_size < 0 else -(-K // group_size)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    whole = draw(st.booleans()) and group_size < 0
    shape = (1, 1) if whole else (N, groups)
    step = rng.standard_normal(shape).astype(np.float16)
    if draw(st.booleans()):
        step = rng.standard_normal(shape).astype(ml_dtypes.bfloat16).astype(np.float32)
    kind = draw(st.sampled_from(["constant", "half", "group", "wide", "offset"]))
    zero: float | np.ndarray | None = float(rng.integers(0, 1 << bits))
    if kind == "half":
        zero = (1 << bits) / 2 - 0.5
    elif kind in ("group", "wide") and not whole:
        zero = rng.integers(0, (1 << bits) + 3 * (kind == "wide"), shape)
    offset = rng.standard_normal(shape).astype(step.dtype) if kind == "offset" else None
    numbers = Numbers(
        rng.integers(0, 1 << bits, (N, K)).astype(np.uint8), step, None if kind == "offset" else zero, offset
    )
    return numbers, bits, group_size


@given(cases())
def test_planes_are_the_numbers(case):
    numbers, bits, group_size = case
    weight = plane_weight(described(numbers, bits, group_size), numbers, "m")
    assert weight.format.planes == bits
    # float64 holds the product of a float32 step and an integer of 9 bits, so both sides are exact but for the sum with
    # an offset, which is one rounding.
    np.testing.assert_allclose(weight.dequantize(), values(numbers, group_size), rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize(
    ("zero", "stored", "offset"),
    [
        (np.full((2, 2), 8), 8.0, False),
        (np.array([[1, 2], [3, 15]]), EACH_GROUP, False),
        (np.array([[1, 2], [3, 16]]), 0.0, True),
        (np.full((2, 2), -1), 0.0, True),
        (7.5, 7.5, False),
        (np.array([[0.5, 1], [1, 1]]), 0.0, True),
    ],
)
def test_zero_points_take_the_form_with_the_fewest_bits(zero, stored, offset):
    numbers = Numbers(np.ones((2, 64), np.uint8), np.ones((2, 2), np.float16), zero)
    form = plane_weight(described(numbers, 4, 32), numbers, "m").format
    assert (form.zero, form.offset) == (stored, offset)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (np.float32(0.5), "float16"),
        (np.float32(1 + 2**-7), "float16"),
        (np.float32(2.0**20), "bfloat16"),
        (np.float32(1 + 2**-20), "float32"),
        (np.float32(2.0**-24), "float16"),  # a subnormal number of it
        (np.float32(2.0**-26), "bfloat16"),
    ],
)
def test_scales_have_the_smallest_type_that_holds_them(step, expected):
    numbers = Numbers(np.ones((3, 32), np.uint8), np.full((3, 1), step), 0.0)
    weight = plane_weight(described(numbers, 2, 32), numbers, "m")
    assert dtype_name(weight.scales.dtype) == expected


def test_one_step_of_a_whole_weight_is_stored_once():
    numbers = Numbers(np.ones((30, 64), np.uint8), np.ones((1, 1), np.float32), 1.0)
    weight = plane_weight(described(numbers, 2, -1), numbers, "m")
    assert weight.format.per_tensor
    assert weight.scales.size == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"q": np.ones((2, 63), np.uint8)}, r"m: expected numbers \[2, 64\], got \[2, 63\]"),
        ({"q": np.full((2, 64), 16, np.uint8)}, r"expected 0 to 15"),
        ({"step": np.ones((2, 3), np.float16)}, r"m: expected step \[2, 2\], got \[2, 3\]"),
        ({"step": np.full((2, 2), np.inf, np.float16)}, r"m: a step is not finite"),
        ({"zero": np.ones((1, 2), np.int32)}, r"m: expected zero \[2, 2\], got \[1, 2\]"),
        ({"zero": None, "offset": np.full((2, 2), np.nan, np.float16)}, r"m: a offset is not finite"),
    ],
)
def test_numbers_that_contradict_themselves_are_refused(changed, message):
    good = {"q": np.ones((2, 64), np.uint8), "step": np.ones((2, 2), np.float16), "zero": 8.0}
    numbers = Numbers(**{**good, **changed})
    packed = PackedWeight("test", 2, 64, 4, 32, 4.5, lambda: numbers)
    with pytest.raises(InputError, match=message):
        plane_weight(packed, numbers, "m")
