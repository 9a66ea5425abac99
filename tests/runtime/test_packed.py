"""Packed copies: equal weights share one, different ones never do, and large ones are packed by several threads."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

import runtime_ext
from runtime_ext.capi import Weight
from tests.support.kernels import LEVELS, TABLE_KERNELS, each, prepared, product
from tests.support.problems import Problem, make_problem, op_model
from tests.support.sessions import open_session, run


def copies() -> int:
    return runtime_ext.describe()["packed"]["copies"]


@each(TABLE_KERNELS)
def test_equal_weights_share_one_copy_until_the_last_is_gone(kernel):
    problem = make_problem(seed=1)
    expected, before = product(kernel, problem), copies()
    first = prepared(kernel, problem)
    with prepared(kernel, replace(problem, planes=problem.planes.copy(), scales=problem.scales.copy())) as second:
        assert copies() == before + 1
        first.close()
        assert copies() == before + 1
        np.testing.assert_array_equal(second.multiply(problem.x), expected)
    assert copies() == before


def changed(problem: Problem, what: str) -> Problem:
    """A problem that differs from another in the least, at the far end."""
    planes, scales = problem.planes.copy(), problem.scales.copy()
    if what == "bit":
        planes[-1, -1, -1] ^= 0x80
    elif what == "scale":
        scales.view(np.uint16)[-1, -1, -1] ^= 1
    elif what == "output":
        planes, scales = planes[:, :-1], scales[:, :-1]
    return replace(problem, planes=planes, scales=scales, N=planes.shape[1])


@each(TABLE_KERNELS)
@pytest.mark.parametrize("what", ["bit", "scale", "output"])
def test_weights_that_differ_in_the_least_do_not_share(kernel, what):
    problem = make_problem(M=3, N=70, offset=True, seed=2)
    other = changed(problem, what)
    expected, before = product(kernel, other), copies()
    with prepared(kernel, problem), prepared(kernel, other) as weight:
        assert copies() == before + 2
        np.testing.assert_array_equal(weight.multiply(other.x), expected)


def test_sessions_on_one_model_share_its_weights():
    problem = make_problem(K=512, N=300, seed=3)
    model, before = op_model(problem), copies()
    first = open_session(model)
    one = copies()
    second = open_session(model)
    assert copies() == one <= before + 1  # none where DUALBINARY_ISA asks for the scalar kernel
    np.testing.assert_array_equal(run(first, problem.x), run(second, problem.x))
    del first, second
    assert copies() == before


@each(TABLE_KERNELS)
def test_a_large_weight_is_the_weights_it_consists_of(kernel):
    # Large enough for two threads, each half of it for one.
    N, K = 9216, 4096
    rng = np.random.default_rng(4)
    planes = rng.integers(0, 256, (2, N, K // 8), np.uint8)
    scales = rng.standard_normal((2, N, K // 128)).astype(np.float16)
    x = rng.standard_normal((1, K)).astype(np.float32)

    def multiply(rows: slice) -> np.ndarray:
        part = np.ascontiguousarray(planes[:, rows]), np.ascontiguousarray(scales[:, rows])

        def create() -> Weight:
            return Weight(*part, K=K, group_size=128, accuracy_level=LEVELS[kernel], kernel=kernel)

        with create() as weight, create() as again:
            y = weight.multiply(x)
            np.testing.assert_array_equal(again.multiply(x), y)
            return y

    parts = [multiply(slice(0, N // 2)), multiply(slice(N // 2, N))]
    np.testing.assert_array_equal(multiply(slice(0, N)), np.concatenate(parts, axis=1))


@each(TABLE_KERNELS)
def test_weights_come_and_go_on_many_threads(kernel):
    variants = [make_problem(K=64, N=40, group_size=32, seed=seed) for seed in range(3)]
    expected, before = [product(kernel, problem) for problem in variants], copies()

    def once(index: int) -> None:
        np.testing.assert_array_equal(product(kernel, variants[index % 3]), expected[index % 3])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(once, range(600)))
    assert copies() == before
