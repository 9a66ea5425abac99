"""Many threads at once: calls of one session, of many, and sessions that come and go meanwhile.

Answers are those of one thread alone, bit by bit. `make sanitize` runs these tests against a library that the thread
sanitizer watches.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import pytest

from dualbinary.contract.levels import Levels
from runtime_ext.capi import Weight, signed_hadamard
from tests.support import hadamards
from tests.support.blocks import attention_case, mlp_case
from tests.support.problems import make_problem, op_model
from tests.support.sessions import open_session

THREADS = 6
CALLS = 12  # of each thread


@dataclass(frozen=True)
class Case:
    """A model and a call of it."""

    model: onnx.ModelProto
    inputs: dict[str, np.ndarray]

    def answer(self) -> list[np.ndarray]:
        """What one thread gives."""
        return run(open_session(self.model), self.inputs)


def run(session: Any, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    return [np.asarray(value) for value in session.run(None, inputs)]


def cases() -> Iterator[tuple[str, Case]]:
    free = make_problem(M=(9,), K=96, N=70, group_size=32)
    even = make_problem(M=(40,), K=64, N=33, group_size=32, planes=2, levels=Levels(True, 3))
    special = replace(free, x=free.x.copy())
    special.x[3, 5] = np.inf  # a row that the exact kernel takes over
    for name, problem in (("free", free), ("even", even), ("special", special)):
        yield name, Case(op_model(problem), {"X": problem.x})
    for name, block in (("mlp", mlp_case((5,), 64, 96)), ("attention", attention_case(3, (5, 2), 16))):
        yield name, Case(block.model(), block.inputs)
    turn = hadamards.make_case((40,), 128, 32)
    yield "hadamard", Case(hadamards.op_model(turn), {"X": turn.x})


CASES = dict(cases())
each_case = pytest.mark.parametrize("name", CASES)


def together(*bodies: Callable[[], None]) -> None:
    """Run all bodies at once, each on a thread of its own, begun together. What one raises is raised here."""
    barrier = threading.Barrier(len(bodies))

    def begin(body: Callable[[], None]) -> None:
        barrier.wait()
        body()

    with ThreadPoolExecutor(len(bodies)) as pool:
        for future in [pool.submit(begin, body) for body in bodies]:
            future.result()


def assert_same(got: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@each_case
@pytest.mark.parametrize("threads", [1, 3])
def test_calls_of_one_session_at_once(name, threads):
    case = CASES[name]
    session, expected = open_session(case.model, threads), case.answer()

    def call() -> None:
        for _ in range(CALLS):
            assert_same(run(session, case.inputs), expected)

    together(*[call] * THREADS)


def test_calls_of_many_sessions_at_once():
    def body(case: Case) -> Callable[[], None]:
        session, expected = open_session(case.model, 2), case.answer()

        def call() -> None:
            for _ in range(CALLS):
                assert_same(run(session, case.inputs), expected)

        return call

    together(*[body(case) for case in CASES.values()])


def test_sessions_come_and_go_while_others_work():
    # All share their packed weights with the session that stays, and each other's: the last one out frees them.
    expected = {name: case.answer() for name, case in CASES.items()}
    staying = open_session(CASES["free"].model, 2)

    def work() -> None:
        for _ in range(2 * CALLS):
            assert_same(run(staying, CASES["free"].inputs), expected["free"])

    def come_and_go() -> None:
        for name, case in CASES.items():
            for _ in range(2):
                assert_same(run(open_session(case.model), case.inputs), expected[name])

    together(work, *[come_and_go] * (THREADS - 1))


def test_equal_weights_are_packed_and_freed_by_many_threads():
    problem = make_problem(M=(4,), K=128, N=96, group_size=32)

    def product() -> np.ndarray:
        with Weight(problem.planes, problem.scales, K=problem.K, group_size=problem.group_size) as weight:
            return weight.multiply(problem.x)

    expected = product()

    def body() -> None:
        for _ in range(CALLS):
            np.testing.assert_array_equal(product(), expected)

    together(*[body] * THREADS)


def test_transforms_at_once():
    case = hadamards.make_case((40,), 128, 32)
    expected = signed_hadamard(case.x, case.signs, case.block_size)

    def body() -> None:
        for _ in range(CALLS):
            np.testing.assert_array_equal(signed_hadamard(case.x, case.signs, case.block_size), expected)

    together(*[body] * THREADS)


def test_errors_of_several_threads_do_not_mix():
    # A message belongs to the thread that failed.
    problem = make_problem(K=64, N=8, group_size=32)

    def body(group_size: int) -> Callable[[], None]:
        def fail() -> None:
            for _ in range(CALLS):
                with pytest.raises(Exception, match=f"group_size: .* got {group_size}$"):
                    Weight(problem.planes, problem.scales, K=64, group_size=group_size)

        return fail

    together(*[body(33 + i) for i in range(THREADS)])
