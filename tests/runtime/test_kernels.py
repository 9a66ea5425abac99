"""Every kernel of the inventory against the float64 reference and against its neighbors, through the C API."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dualbinary.contract.levels import FREE, Levels
from dualbinary.contract.scale_codes import scale_values
from tests.support.kernels import (
    AVAILABLE,
    EVEN_LEVELS,
    EXACT,
    FAST_KERNELS,
    LEVELS,
    TABLE_KERNELS,
    each,
    error_bound,
    kernel_parameter,
    prepared,
    problem_for,
    product,
    served_levels,
)
from tests.support.problems import ENTRY_RANGE, Problem, assert_close, make_problem, problems

GUARD = 512
"""Elements around an output that no kernel may touch: more than any block of outputs."""


@each(LEVELS)
@given(problem=problems())
@settings(max_examples=150)
def test_product_of_any_shape_is_within_the_derived_bound(kernel, problem):
    assert_close(product(kernel, problem), problem, error_bound(kernel, problem))


@each(FAST_KERNELS)
@pytest.mark.parametrize("group_size", [32, 64, 96, 128, 1024])
@pytest.mark.parametrize(("rows", "planes", "offset"), [(1, 2, False), (9, 2, False), (17, 1, True), (17, 4, False)])
def test_relative_error_on_gaussian_input_is_as_promised(kernel, group_size, rows, planes, offset):
    problem = problem_for(kernel, M=rows, K=1024, N=256, group_size=group_size, planes=planes, offset=offset)
    expected = problem.reference()
    error = np.linalg.norm(product(kernel, problem) - expected) / np.linalg.norm(expected)
    # Level 4 promises 8e-3. The error is made of independent roundings and so as small as the step, which is finer by
    # the range of an entry: 3.1e-5 at level 0, where the contract's 15 bits of activations would be 1e-4.
    assert error <= 8e-3 * ENTRY_RANGE[4] / ENTRY_RANGE[LEVELS[kernel]]


def other_table_kernels() -> list:
    """(kernel, another of its level), each pair once; kernels without another one here are skipped by name."""
    parameters = []
    for level in sorted(set(LEVELS.values())):
        here = [name for name in TABLE_KERNELS if LEVELS[name] == level and name in AVAILABLE]
        parameters += [kernel_parameter(name, here[0]) for name in here[1:]]
        if len(here) == 1:
            skip = pytest.mark.skip(reason=f"this CPU runs no other table kernel of level {level} than {here[0]}")
            parameters.append(pytest.param(here[0], None, marks=skip))
    absent = [name for name in TABLE_KERNELS if name not in AVAILABLE]
    return parameters + [kernel_parameter(name, None) for name in absent]


@pytest.mark.parametrize(("kernel", "other"), other_table_kernels())
@given(problem=problems(rows=(1, 5)))
@settings(max_examples=20)
def test_kernels_of_one_level_differ_by_float_rounding_only(kernel, other, problem):
    # Same entries, other order of sums; a start value at a rounding boundary may fall to either side.
    assert kernel != other
    ours, theirs = product(kernel, problem).astype(np.float64), product(other, problem).astype(np.float64)
    rounding = 2 * np.abs(theirs) * (2.0**-11 if problem.x.dtype == np.float16 else 2.0**-24) + 2.0**-24
    bound = 2 * problem.float_error() + problem.step_error(LEVELS[kernel]) + rounding
    assert (np.abs(ours - theirs) <= bound).all()


@each(TABLE_KERNELS)
@pytest.mark.parametrize("rows", [1, 6])
@pytest.mark.parametrize("offset", [False, True])
@pytest.mark.parametrize(("K", "group_size"), [(64, 32), (190, 96), (600, 128)])
def test_table_kernels_agree_in_every_integer(kernel, rows, offset, K, group_size):
    # Whole inputs, scales that are powers of two, and a step of 1: floats are then exact in any order of operations,
    # and what is left is the integers. Half of the entries are ties of rounding, which go to the even neighbor.
    rng = np.random.default_rng(K + rows)
    problem = make_problem(M=rows, K=K, N=70, group_size=group_size, planes=2, offset=offset)
    bias = ENTRY_RANGE[LEVELS[kernel]]
    # 24 bits must hold a scale times an entry's range times the 2^4 of planes and segments.
    powers = rng.integers(0, 24 - 4 - bias.bit_length() + 1, problem.scales.shape)
    problem.scales[:] = 2.0**powers * rng.choice([-1, 1], powers.shape)
    problem.x[:] = rng.integers(-20, 21, problem.x.shape)
    size = problem.segment_size()
    for start in range(0, K, size):  # one nibble of each segment takes the whole range of an entry
        problem.x[:, start : start + 2] = [bias - 1, -bias - 1]
        problem.x[:, start + 2 : start + 4] = 0
    np.testing.assert_array_equal(product(kernel, problem), rounded_nibbles_product(problem))


def rounded_nibbles_product(problem: Problem) -> np.ndarray:
    """The product of a table kernel at a step of 1, in integers: Y [M, N]."""
    x = problem.segments()  # [M, segments, S]
    planes = np.unpackbits(problem.planes, axis=2, bitorder="little")
    bits = planes.reshape(len(planes), problem.N, x.shape[1], -1, 4).astype(np.float64)
    nibbles = x.reshape(*x.shape[:2], -1, 4)
    selected = np.einsum("pnsqi,msqi->pmnsq", bits, nibbles)
    entries = np.rint(selected - nibbles.sum(axis=3)[:, None] / 2).sum(axis=4)  # rint: ties to even
    sums = entries + np.rint(x.sum(axis=2) / 2)[:, None]  # [P, M, N, segments]
    scales = problem.scales.astype(np.float64).repeat(problem.group_size // x.shape[2], axis=2)
    y = np.einsum("pmns,pns->mn", sums, scales[: len(planes)])
    return y + np.einsum("ms,cns->mn", x.sum(axis=2), scales[len(planes) :])


SPECIAL = [np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 1e30, 1e-30, 1e-38, 1e-45, 0.0, -0.0]


@each(LEVELS)
@given(
    problem=problems(rows=(1, 3)),
    places=st.lists(st.tuples(st.integers(0, 2**16), st.sampled_from(SPECIAL)), min_size=1, max_size=4),
)
def test_extreme_activations_follow_ieee_rules(kernel, problem, places):
    with np.errstate(over="ignore"):
        for place, value in places:
            problem.x.flat[place % problem.x.size] = value
    with np.errstate(invalid="ignore"):
        bound = np.nan_to_num(error_bound(kernel, problem), nan=0.0, posinf=0.0)
        assert_close(product(kernel, problem), problem, bound)


@each(LEVELS)
@pytest.mark.parametrize("magnitude", [1e-44, 1e-38, 1e-36, 1e-20, 1e20, 1e36, 1e38])
def test_rows_of_extreme_magnitude_keep_their_accuracy(kernel, magnitude):
    problem = problem_for(kernel, M=2, scale_type=np.float32)
    with np.errstate(over="ignore"):
        problem.x[1] *= magnitude
        problem.x[1, ::2] = np.clip(problem.x[1, ::2], -3e38, 3e38)
    assert_close(product(kernel, problem), problem, error_bound(kernel, problem))


@each(LEVELS)
def test_sums_that_overflow_float32_on_the_way_are_right_in_the_end(kernel):
    problem = problem_for(kernel, K=64, N=40, group_size=32, scale_type=np.float32)
    problem.x[:] = 1e35  # tables can hold it, but not its product with the scale
    problem.scales[:, :, 0] = 1e6
    problem.scales[:, :, 1] = -1e6
    problem.planes[:, :, 4:] = problem.planes[:, :, :4]  # the second group cancels the first
    np.testing.assert_array_equal(product(kernel, problem), np.zeros((1, 40), np.float32))


@each(sorted(EVEN_LEVELS))
@pytest.mark.parametrize("twice_zero", [0, 510])
def test_large_sums_beside_a_far_zero_point_keep_their_accuracy(kernel, twice_zero):
    # Their product is beyond float32, and in steps of the inputs it is not. It went through an integer that overflowed,
    # which a sanitizer sees; results were those of the exact kernel then.
    levels = Levels(even=True, twice_zero=twice_zero)
    problem = make_problem(M=2, K=128, N=40, group_size=32, planes=8, levels=levels, scale_type=np.float32)
    problem.x[:] = 1e35 * (1 + np.abs(problem.x) / 8)
    problem.scales[:] *= 1e-3
    assert_close(product(kernel, problem), problem, error_bound(kernel, problem))


@each(LEVELS)
def test_unselected_nan_and_infinity_do_not_reach_the_sum(kernel):
    problem = problem_for(kernel, M=2, K=64, N=40, group_size=32)
    problem.planes[:, :, 1] = 0  # inputs 8 to 15
    problem.x[0, 8:16] = [np.nan, np.inf, -np.inf, 1e38, np.nan, np.inf, -np.inf, 1e38]
    y = product(kernel, problem)
    problem.x[0, 8:16] = 0
    assert_close(y, problem, error_bound(kernel, problem))


def one_selected_input(scales: np.ndarray, x_type: type, levels: Levels = FREE) -> Problem:
    """Y = scales: one output for each, whose only selected input is 1."""
    planes = np.zeros((1, len(scales), 4), np.uint8)
    planes[:, :, 0] = 1
    x = np.zeros((1, 32), x_type)
    x[0, 0] = 1
    return Problem(x, planes, scales[None, :, None], 32, len(scales), 32, levels)


def test_every_float16_scale_is_read_right():
    scales = np.arange(2**16, dtype=np.uint16).view(np.float16)
    y = product(EXACT, one_selected_input(scales, np.float32))
    np.testing.assert_array_equal(y[0], scales.astype(np.float32))


def decoded(problem: Problem) -> Problem:
    """The problem with the float32 scales that its coded ones stand for, exactly."""
    return replace(problem, scales=scale_values(problem.scales).astype(np.float32))


@each(LEVELS)
@given(problem=problems(scale_types=(np.dtype(np.uint8),)))
@settings(max_examples=40)
def test_coded_scales_compute_what_the_float32_scales_they_stand_for_do(kernel, problem):
    np.testing.assert_array_equal(product(kernel, problem), product(kernel, decoded(problem)))


@each(LEVELS)
def test_every_factor_and_every_code_is_read_right(kernel):
    factors = np.arange(2**16, dtype="<u2").view(np.float16)
    factors = factors[np.isfinite(factors)]
    problem = one_selected_input(np.zeros(len(factors)), np.float32, served_levels(kernel))
    codes = (np.arange(len(factors)) * 37 % 256).astype(np.uint8)  # neighbors differ, each beside many factors
    scales = np.concatenate([factors.view(np.uint8).reshape(-1, 2), codes[:, None]], axis=1)[None]
    problem = replace(problem, scales=scales)
    y = product(kernel, problem)
    np.testing.assert_array_equal(y, product(kernel, decoded(problem)))
    if kernel == EXACT:
        np.testing.assert_array_equal(y[0], factors.astype(np.float64) * (codes.astype(np.float64) - 128) / 128)


def test_coded_scales_take_a_byte_and_two_for_each_row():
    problem = make_problem(K=1024, N=64, group_size=128, scale_type=np.uint8)
    with prepared(EXACT, problem) as weight:
        assert weight.nbytes == problem.planes.nbytes + 2 * 64 * (8 + 2)
    for kernel in filter(AVAILABLE.__contains__, TABLE_KERNELS):
        with prepared(kernel, problem) as weight:  # all of it is whole cache lines here
            assert weight.nbytes == problem.planes.nbytes + 2 * 64 * (8 + 2)


def test_results_round_once_to_the_nearest_float16():
    values_f16 = np.arange(2**15, dtype=np.uint16).view(np.float16).astype(np.float64)
    values_f16 = values_f16[np.isfinite(values_f16)]
    between = (values_f16[1:] + values_f16[:-1]) / 2  # ties; then their neighbors
    largest = [65504, np.nextafter(np.float32(65520), np.float32(0)), 65520, 65536, np.inf]
    values = np.concatenate([values_f16, between, between * (1 - 1e-6), between * (1 + 1e-6), largest]).astype(
        np.float32
    )
    values = np.concatenate([values, -values])
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16)
    np.testing.assert_array_equal(product(EXACT, one_selected_input(values, np.float16))[0], expected)


@each(LEVELS)
def test_bits_beyond_k_are_ignored(kernel):
    problem = problem_for(kernel, K=37, N=33, group_size=64)
    clean = product(kernel, problem)
    problem.planes[:, :, 5:] = 0xFF  # inputs 40 to 63 do not exist
    np.testing.assert_array_equal(product(kernel, problem), clean)


@each(LEVELS)
@given(problem=problems(rows=(1, 2, 17)))
@settings(max_examples=15)
def test_nothing_is_written_outside_the_output(kernel, problem):
    rows = len(problem.x)
    sentinel = problem.x.dtype.type(-12345)
    buffer = np.full(GUARD + rows * problem.N + GUARD, sentinel, problem.x.dtype)
    with prepared(kernel, problem) as weight:
        weight.multiply(problem.x, out=buffer[GUARD:-GUARD].reshape(rows, problem.N))
    assert (buffer[:GUARD] == sentinel).all()
    assert (buffer[-GUARD:] == sentinel).all()
    assert not (buffer[GUARD:-GUARD] == sentinel).any()


@each(LEVELS)
def test_a_row_does_not_depend_on_the_rows_beside_it(kernel):
    problem = problem_for(
        kernel, M=137, K=544, N=65, group_size=32, planes=3, offset=True
    )  # more than one tile of rows
    problem.x[3, 5] = np.inf  # 137 rows are more than one tile
    together = product(kernel, problem)
    with prepared(kernel, problem) as weight:
        alone = np.concatenate([weight.multiply(row[None]) for row in problem.x])
    np.testing.assert_array_equal(together, alone)


@each(LEVELS)
def test_threads_do_not_change_the_result(kernel):
    problem = problem_for(kernel, M=6, K=1024, N=1024)
    counts = []

    def parallel(task, count):
        counts.append(count)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(task, range(count)))

    np.testing.assert_array_equal(product(kernel, problem, parallel), product(kernel, problem))
    assert max(counts) > 1


def test_a_small_product_stays_on_the_calling_thread():
    def parallel(task, count):
        pytest.fail(f"{count} tasks for a product that takes less time than handing out one")

    product(
        next(filter(AVAILABLE.__contains__, TABLE_KERNELS), EXACT), make_problem(K=64, N=32, group_size=32), parallel
    )


@each(LEVELS)
def test_one_weight_serves_many_threads_at_once(kernel):
    problem = problem_for(kernel, M=3, K=512, N=96)
    inputs = [problem.x * (i + 1) for i in range(24)]
    with prepared(kernel, problem) as weight, ThreadPoolExecutor(8) as pool:
        expected = [weight.multiply(x) for x in inputs]
        results = list(pool.map(weight.multiply, inputs))
    for result, alone in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result, alone)
