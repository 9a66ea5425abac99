"""Layout codes: the products of layout plain, bit for bit, from numbers packed as MatMulNBits packs its weights."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings

import runtime_ext
from dualbinary import InputError
from dualbinary.contract.levels import FREE, GROUP_ZEROS, Levels
from runtime_ext.capi import Weight
from tests.support.codes import CODES, in_codes
from tests.support.kernels import EXACT, FAST_KERNELS, LEVELS, each, product, serves
from tests.support.problems import Problem, make_problem, op_model, problems
from tests.support.sessions import open_session, run

EVEN = Levels(even=True)


def from_codes(problem: Problem, kernel: str | None = None, **changes) -> Weight:
    arguments = {
        "K": problem.K,
        "group_size": problem.group_size,
        "levels": problem.levels,
        "layout": CODES,
        "accuracy_level": LEVELS[kernel] if kernel else 0,
        "kernel": kernel,
    }
    return Weight(in_codes(problem).planes, problem.scales, **arguments | changes)


def product_from_codes(kernel: str, problem: Problem) -> np.ndarray:
    with from_codes(problem, kernel) as weight:
        return weight.multiply(problem.x.reshape(-1, problem.K)).reshape(*problem.x.shape[:-1], problem.N)


@each(LEVELS)
@given(problem=problems(even=True, planes=(2, 4, 8)))
@settings(max_examples=40)
def test_a_product_from_codes_is_that_from_layout_plain_bit_for_bit(kernel, problem):
    assume(serves(kernel, problem.levels))
    np.testing.assert_array_equal(product_from_codes(kernel, problem), product(kernel, problem))


@pytest.mark.parametrize("planes", [2, 4, 8])
@pytest.mark.parametrize("groups", [1, 8, 9, 16, 17, 40])
def test_zero_points_are_found_behind_the_codes(planes, groups):
    problem = make_problem(K=16 * groups - 3, N=5, group_size=16, planes=planes, levels=Levels(True, GROUP_ZEROS))
    np.testing.assert_array_equal(product_from_codes(EXACT, problem), product(EXACT, problem))


def test_codes_at_any_address_give_the_same():
    problem = make_problem(K=100, N=9, group_size=32, planes=4, levels=EVEN)
    codes = in_codes(problem).planes
    memory = np.zeros(codes.size + 1, np.uint8)
    memory[1:] = codes.reshape(-1)
    with (
        Weight(memory[1:].reshape(codes.shape), problem.scales, K=100, group_size=32, levels=EVEN, layout=CODES) as odd,
        from_codes(problem) as weight,
    ):
        np.testing.assert_array_equal(odd.multiply(problem.x), weight.multiply(problem.x))


@pytest.mark.parametrize("planes", [2, 4, 8])
def test_a_large_weight_is_converted_by_several_threads(planes):
    N, K = 4096 // planes * 4 + 7, 4096
    problem = make_problem(K=K, N=N, group_size=128, planes=planes, levels=Levels(True, GROUP_ZEROS))
    with from_codes(problem) as codes, plain(problem) as weight:
        np.testing.assert_array_equal(codes.multiply(problem.x), weight.multiply(problem.x))


def plain(problem: Problem) -> Weight:
    return Weight(problem.planes, problem.scales, K=problem.K, group_size=problem.group_size, levels=problem.levels)


@each(FAST_KERNELS)
def test_codes_share_the_packed_copy_of_the_plain_weight(kernel):
    problem = make_problem(K=200, N=70, planes=4, levels=Levels(True, GROUP_ZEROS))
    form = {"K": 200, "group_size": 64, "levels": problem.levels, "accuracy_level": LEVELS[kernel], "kernel": kernel}
    if not serves(kernel, problem.levels):
        pytest.skip(f"{kernel} does not serve even levels")

    def packed() -> int:
        return runtime_ext.describe()["packed"]["copies"]

    before = packed()
    with (
        Weight(problem.planes, problem.scales, **form),
        from_codes(problem, kernel) as first,
        from_codes(problem, kernel),
    ):
        assert packed() == before + 1
        np.testing.assert_array_equal(first.multiply(problem.x), product(kernel, problem))
    assert packed() == before


@pytest.mark.parametrize("level", [0, 4])
@pytest.mark.parametrize("per_tensor", [False, True])
@pytest.mark.parametrize("twice_zero", [GROUP_ZEROS, 8])
def test_a_session_runs_a_node_of_codes(twice_zero, per_tensor, level):
    if per_tensor and twice_zero == GROUP_ZEROS:
        pytest.skip("such a weight has no zero points of groups")
    problem = make_problem(
        M=(2, 3),
        K=70,
        N=33,
        group_size=96 if per_tensor else 16,
        planes=4,
        levels=Levels(True, twice_zero),
        per_tensor=per_tensor,
    )
    session = open_session(op_model(in_codes(problem), layout=CODES, accuracy_level=level))
    expected = run(open_session(op_model(problem, accuracy_level=level)), problem.x)
    np.testing.assert_array_equal(run(session, problem.x), expected)


def test_every_instruction_set_reads_codes(monkeypatch):
    for kernel in runtime_ext.describe()["kernels"]:
        if kernel["available"]:
            monkeypatch.setenv("DUALBINARY_ISA", kernel["isa"])
            assert {"plain", "codes"} <= set(runtime_ext.describe()["layouts"])


GOOD = make_problem(K=64, N=40, group_size=32, planes=2, levels=EVEN)
EXPECTED = r"layout: expected even levels of 2, 4 or 8 planes for 5 \(codes\), got "


@pytest.mark.parametrize(
    ("planes", "attributes", "message"),
    [
        ((40, 2, 12), {}, EXPECTED + "3 planes"),
        ((40, 2, 4), {}, EXPECTED + "1 plane"),
        ((40, 2, 8), {"levels": 0, "twice_zero": 0}, EXPECTED + "free levels"),
        ((40, 2, 0), {}, "number of planes: expected 1 to 8, got 0"),
        ((40, 2, 64), {}, "number of planes: expected 1 to 8, got 16"),
        ((40, 2, 9), {}, r"planes: expected shape \[40, 2, 8\], got \[40, 2, 9\]"),
        ((40, 3, 8), {}, r"planes: expected shape \[40, 2, 8\], got \[40, 3, 8\]"),
        ((41, 2, 8), {}, r"planes: expected shape \[40, 2, 8\], got \[41, 2, 8\]"),
        ((40, 2, 8), {"twice_zero": -1}, r"planes: expected shape \[40, 3, 8\], got \[40, 2, 8\]"),
        ((40, 16), {}, r"planes: expected shape \[N, Kp/G, G\*P/8\], got \[40, 16\]"),
        ((40, 16), {"twice_zero": -1}, r"planes: expected shape \[N, Kp/G \+ E, G\*P/8\], got \[40, 16\]"),
        ((40, 2, 8), {"twice_zero": 7}, "twice_zero: expected 0 to 6 for 2 planes"),
    ],
)
def test_tensors_of_the_wrong_shape_are_refused(planes, attributes, message):
    problem = replace(GOOD, planes=np.zeros(planes, np.uint8))
    with pytest.raises(Exception, match=message):
        open_session(op_model(problem, layout=CODES, **attributes))


def test_the_c_api_refuses_what_is_not_codes():
    with pytest.raises(InputError, match=EXPECTED + "free levels"):
        from_codes(GOOD, levels=FREE)
    with pytest.raises(InputError, match=EXPECTED + "3 planes"):
        from_codes(GOOD, planes_in_blocks=3)
    with pytest.raises(InputError, match="planes: expected 1280 bytes, got 640"):
        from_codes(GOOD, planes_in_blocks=4)
