import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dualbinary.contract.scale_codes import dtype_name
from dualbinary.contract.weight import EACH_GROUP, PER_CHANNEL
from dualbinary.fitting.exact import exact_form, exact_weight

N, K = 66, 512
TYPES = ("float16", "bfloat16", "float32")


def stored_as(values, dtype):
    values = np.asarray(values, np.float64)
    if dtype == "bfloat16":
        return values.astype(pytest.importorskip("ml_dtypes").bfloat16).astype(np.float32)
    return values.astype(dtype).astype(np.float32)


def steps(rng, group_size, dtype=np.float16):
    drawn = rng.uniform(0.005, 0.05, (N, K // group_size)).astype(dtype)
    return np.repeat(drawn.astype(np.float64), group_size, axis=1)


def per_group(rng, group_size, low, high):
    return np.repeat(rng.integers(low, high, (N, K // group_size)), group_size, axis=1)


def asymmetric(rng, planes):
    return steps(rng, 128) * (rng.integers(0, 1 << planes, (N, K)) - per_group(rng, 128, 0, 1 << planes))


def with_minimum(rng):
    step = steps(rng, 32)
    low = (step * np.repeat(rng.uniform(6, 9, (N, K // 32)), 32, axis=1)).astype(np.float16)
    return step * rng.integers(0, 16, (N, K)) - low


def two_free_planes(rng):
    planes = rng.integers(0, 2, (2, N, K))
    return (planes[0] * per_group(rng, 128, 1, 128) + planes[1] * per_group(rng, 128, -128, 0)) / 2048


# Name: weights, and the form that they have: planes, levels, zero, offset, group size, bits.
KINDS = {
    "ternary": (lambda rng: steps(rng, 128) * rng.integers(-1, 2, (N, K)), (2, "even", 1, False, 128, 2.125)),
    "two values": (lambda rng: steps(rng, 128) * rng.choice([-1, 1], (N, K)), (1, "even", 0.5, False, 128, 1.125)),
    "-1 to 2": (lambda rng: steps(rng, 64) * rng.integers(-1, 3, (N, K)), (2, "even", 1, False, 64, 2.25)),
    "-2 to 1": (lambda rng: steps(rng, 64) * rng.integers(-2, 2, (N, K)), (2, "even", 1, False, 64, 2.25)),
    "halves": (lambda rng: steps(rng, 256) * (rng.integers(0, 4, (N, K)) - 1.5), (2, "even", 1.5, False, 256, 2.0625)),
    "one step": (lambda rng: 0.0373 * rng.integers(-1, 2, (N, K)), (2, "even", 1, False, PER_CHANNEL, 2.0)),
    "GPTQ 2 bits": (lambda rng: asymmetric(rng, 2), (2, "even", EACH_GROUP, False, 128, 2.15625)),
    "GPTQ 4 bits": (lambda rng: asymmetric(rng, 4), (4, "even", EACH_GROUP, False, 128, 4.1875)),
    "Q4_0": (lambda rng: steps(rng, 32) * rng.integers(-8, 8, (N, K)), (4, "even", 8, False, 32, 4.5)),
    "Q4_1": (with_minimum, (4, "even", 0, True, 32, 5.0)),
    "free": (two_free_planes, (2, "free", 0, False, 128, 2.25)),
    "Q8_0": (lambda rng: steps(rng, 32) * rng.integers(-127, 128, (N, K)), (8, "even", 128, False, 32, 8.5)),
}


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_exact_form_is_the_smallest_one_and_gives_every_stored_weight_back(kind, dtype):
    if (kind, dtype) == ("Q4_1", "bfloat16"):
        pytest.skip("a step of that many digits is more than bfloat16 keeps of a level")
    make, (planes, levels, zero, offset, group_size, bits) = KINDS[kind]
    weight = stored_as(make(np.random.default_rng(1)), dtype)
    form = exact_form(lambda: [weight[:64], weight[64:]], dtype)
    assert form is not None
    assert (form.planes, form.levels, form.zero, form.offset, form.group_size) == (
        (planes, levels, zero, offset, group_size)
    )
    assert form.row_bits(K) / K == bits
    packed = exact_weight(weight, form, dtype)
    assert packed is not None
    packed.check()
    np.testing.assert_array_equal(stored_as(packed.dequantize(), dtype), weight)


@pytest.mark.parametrize("dtype", TYPES)
def test_exact_form_of_a_scale_a_row_takes_the_scale_type_that_holds_it(dtype):
    rng = np.random.default_rng(2)
    weight = stored_as(rng.uniform(0.01, 0.1, (N, 1)).astype(np.float32) * rng.integers(-8, 8, (N, K)), dtype)
    form = exact_form(lambda: [weight], dtype)
    assert form is not None
    assert (form.planes, form.group_size, dtype_name(form.scale_dtype)) == (4, PER_CHANNEL, "float32")


@settings(max_examples=20)
@given(st.sampled_from(TYPES), st.integers(1, 100), st.integers(16, 200), st.integers(0, 2**32 - 1))
def test_exact_form_of_ordinary_weights_is_none(dtype, n, k, seed):
    weight = stored_as(np.random.default_rng(seed).standard_normal((n, k)) * 0.02, dtype)
    assert exact_form(lambda: [weight], dtype) is None


def test_exact_form_of_a_weight_with_one_value_off_the_grid_is_none():
    weight = stored_as(KINDS["ternary"][0](np.random.default_rng(3)), "float16")
    weight[-1, -1] += 0.001
    assert exact_form(lambda: [weight], "float16") is None


def test_exact_form_of_few_free_values_has_free_levels():
    rng = np.random.default_rng(4)
    levels = steps(rng, 128), 3.3 * steps(rng, 128)
    weight = stored_as(np.where(rng.integers(0, 2, (N, K)), levels[0], 0) - levels[1].astype(np.float16), "float16")
    form = exact_form(lambda: [weight], "float16")
    assert form is not None
    assert (form.planes, form.offset) == (1, True)


@settings(max_examples=20)
@given(
    st.sampled_from(["float16", "float32"]), st.integers(1, 70), st.integers(33, 200), st.sampled_from([0.1, 0.5, 0.9])
)
def test_two_free_planes_are_found_as_two_in_groups_of_any_of_their_levels(dtype, n, k, density):
    rng = np.random.default_rng(n * k)
    scales = rng.uniform(-0.05, 0.05, (2, n, -(-k // 32))).astype(np.float16).astype(np.float64)
    planes = rng.random((2, n, k)) < density
    weight = stored_as((planes * np.repeat(scales, 32, axis=2)[:, :, :k]).sum(axis=0), dtype)
    form = exact_form(lambda: [weight], dtype)
    assert form is not None
    assert form.planes <= 2  # with float32 scales where a group has the sum of its scales, and not both of them
    packed = exact_weight(weight, form, dtype)
    assert packed is not None
    np.testing.assert_array_equal(stored_as(packed.dequantize(), dtype), weight)


def test_exact_form_of_a_weight_that_is_not_finite_is_none():
    assert exact_form(lambda: [np.full((4, 64), np.nan, np.float32)], "float32") is None


def test_exact_weight_of_another_weight_is_none():
    weight = stored_as(KINDS["ternary"][0](np.random.default_rng(5)), "float16")
    form = exact_form(lambda: [weight], "float16")
    assert form is not None
    assert exact_weight(np.random.default_rng(0).standard_normal((N, K)).astype(np.float32), form, "float16") is None
