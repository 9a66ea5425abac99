"""What level kernels alone have: integers that are exact, bits of a row among others, and calls that they take."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from dualbinary.contract.levels import FREE, GROUP_ZEROS, Levels
from runtime_ext.capi import Weight
from tests.support.kernels import FREE_LEVELS, KERNELS, LEVEL_KERNELS, LEVELS, each, error_bound, product
from tests.support.problems import assert_close, make_problem, problems

OF_FREE_LEVELS = [name for name in LEVEL_KERNELS if name in FREE_LEVELS]
OF_EVEN_LEVELS = [name for name in LEVEL_KERNELS if name not in FREE_LEVELS]
EVEN = Levels(True, 8)


@each(OF_FREE_LEVELS)
@pytest.mark.parametrize("rows", [1, 6, 19])
@pytest.mark.parametrize("offset", [False, True])
@pytest.mark.parametrize("planes", [1, 2, 4, 8])
def test_level_kernels_are_exact_where_weights_and_inputs_are_bytes(kernel, rows, offset, planes):
    rng = np.random.default_rng(planes)
    problem = make_problem(M=rows, K=190, N=70, group_size=96, planes=planes, offset=offset)
    count = min(planes, 4)  # of planes whose levels are spread evenly over the bytes
    problem.scales[:planes] = np.resize(255 // (2**count - 1) * 2.0 ** np.arange(count), planes)[:, None, None]
    problem.scales[planes:] = rng.integers(-300, 300, problem.scales[planes:].shape)
    problem.x[:] = rng.integers(-20, 21, problem.x.shape)
    problem.x[:, [0, 100]] = [127, -127]
    np.testing.assert_array_equal(product(kernel, problem), problem.reference())


@each(OF_EVEN_LEVELS)
@pytest.mark.parametrize("rows", [1, 19])
@pytest.mark.parametrize("twice_zero", [GROUP_ZEROS, 0, 1, 2, None])
@pytest.mark.parametrize("group_size", [16, 96])
@pytest.mark.parametrize("planes", [1, 3, 4, 5, 8])
def test_even_levels_are_exact_where_inputs_are_bytes(kernel, rows, twice_zero, group_size, planes):
    rng = np.random.default_rng(planes)
    levels, offset = Levels(True, twice_zero or 0), twice_zero is None
    problem = make_problem(
        M=rows, K=190, N=70, group_size=group_size, planes=planes, offset=offset, levels=levels, seed=planes
    )
    problem.scales[:1] = rng.integers(-3, 4, problem.scales[:1].shape)
    problem.scales[1:] = rng.integers(-300, 300, problem.scales[1:].shape)
    problem.x[:] = rng.integers(-20, 21, problem.x.shape)
    problem.x[:, :: problem.segment_size()] = 127  # so that a step is 1, or 1/257, which floats round
    rounding = 0 if LEVELS[kernel] == 4 else problem.float_error()
    assert (np.abs(product(kernel, problem) - problem.reference()) <= rounding).all()


@each([name for name in OF_EVEN_LEVELS if LEVELS[name] == 0])
@given(problem=problems(rows=(2, 9)))
@settings(max_examples=60)
def test_a_row_has_the_same_bits_alone_as_among_others(kernel, problem):
    rows = problem.x.reshape(-1, problem.K)
    whole = product(kernel, problem).reshape(len(rows), -1)
    for count in range(1, min(len(rows), 5) + 1):
        part = replace(problem, x=rows[:count])
        np.testing.assert_array_equal(product(kernel, part), whole[:count])


@each([name for name in OF_EVEN_LEVELS if name.endswith("_avxvnni")])
@given(problem=problems(rows=(1, 9)))
@settings(max_examples=60)
def test_vnni_gives_the_bits_of_avx2(kernel, problem):
    without = kernel.replace("avxvnni", "avx2")
    np.testing.assert_array_equal(product(kernel, problem), product(without, problem))


@each(OF_EVEN_LEVELS)
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("planes", [4, 8])
def test_a_segment_of_the_largest_numbers_does_not_overflow(kernel, planes, sign):
    problem = make_problem(M=9, K=384, N=40, group_size=128, planes=planes, levels=Levels(even=True))
    problem.x[:] = sign
    problem.planes[:] = 255
    assert_close(product(kernel, problem), problem, error_bound(kernel, problem))


@pytest.mark.parametrize(
    ("isa", "name", "levels", "planes", "group_size", "from_rows"),
    [
        ("i8mm", "level8_n32_i8mm", FREE, 2, 64, 16),
        ("neon", "level8_n32_i8mm", FREE, 2, 64, None),  # which rules it out
        ("avx512", "level16_n32_avx512", EVEN, 8, 64, 1),
        ("avx512", "level16_n32_avx512", EVEN, 4, 32, 1),
        ("avx512", "level16_n32_avx512", EVEN, 3, 32, 9),
        ("avx512", "level16_n32_avx512", EVEN, 4, 16, None),
        ("avx512", "level16_n32_avx512", EVEN, 2, 128, None),
        ("avx512", "level16_n32_avx512", FREE, 4, 64, None),
        ("avx512", "level8_n32_avx512", EVEN, 8, 64, 4),
        ("avx512", "level8_n32_avx512", EVEN, 4, 32, 8),
        ("avx512", "level8_n32_avx512", EVEN, 4, 16, 32),
        ("avx512", "level8_n32_avx512", EVEN, 3, 128, 16),
        ("avx512", "level8_n32_avx512", EVEN, 3, 16, None),
        ("avx512", "level8_n32_avx512", EVEN, 2, 128, None),
        ("avx512", "level8_n32_avx512", FREE, 4, 64, None),
        ("avxvnni", "level16_n32_avxvnni", EVEN, 4, 32, 9),
        ("avxvnni", "level16_n32_avxvnni", EVEN, 1, 128, None),
        ("avxvnni", "level8_n32_avxvnni", EVEN, 8, 16, 4),
        ("avxvnni", "level8_n32_avxvnni", EVEN, 3, 64, 6),
        ("avxvnni", "level8_n32_avxvnni", EVEN, 1, 64, None),
        ("avx2", "level16_n32_avx2", EVEN, 8, 16, 9),
        ("avx2", "level16_n32_avx2", EVEN, 2, 128, 9),
        ("avx2", "level16_n32_avx2", EVEN, 1, 128, None),
        ("avx2", "level16_n32_avx2", FREE, 4, 64, None),
        ("avx2", "level8_n32_avx2", EVEN, 4, 16, 4),
        ("avx2", "level8_n32_avx2", EVEN, 2, 64, None),
    ],
)
def test_many_rows_get_the_kernel_that_is_made_for_them(monkeypatch, isa, name, levels, planes, group_size, from_rows):
    if not any(kernel["isa"] == isa and kernel["available"] for kernel in KERNELS):
        pytest.skip(f"this CPU has no {isa}")
    monkeypatch.setenv("DUALBINARY_ISA", isa)
    levels = levels._replace(twice_zero=min(levels.twice_zero, 2 * (2**planes - 1)))
    problem = make_problem(M=137, K=320, N=70, planes=planes, group_size=group_size, levels=levels)
    sizes = {"K": problem.K, "group_size": group_size, "levels": levels, "accuracy_level": LEVELS[name]}
    with Weight(problem.planes, problem.scales, **sizes) as weight:
        assert weight.kernel.startswith("table8" if LEVELS[name] else "table16")
        rows = [1, 137] if from_rows is None else [max(from_rows - 1, 1), from_rows, 137]
        for count, dtype in itertools.product(rows, [np.float32, np.float16]):
            part = replace(problem, x=problem.x[:count].astype(dtype))
            kernel = weight.kernel if from_rows is None or count < from_rows else name
            np.testing.assert_array_equal(weight.multiply(part.x), product(kernel, part))
