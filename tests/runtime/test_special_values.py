"""NaN, infinity, outliers, denormals and unusual scales: every kernel of this CPU, held to docs/op_reference.md."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import runtime_ext
from dualbinary.contract.blocks import int8_rows
from dualbinary.contract.levels import FREE, GROUP_ZEROS, Levels
from dualbinary.contract.scale_codes import BFLOAT16
from tests.support.blocks import BlockCase, attention_case, mlp_case
from tests.support.kernels import EXACT, LEVEL_KERNELS, LEVELS, each, problem_for, product, serves
from tests.support.problems import Problem, assert_close, make_problem, problems
from tests.support.sessions import open_session

NOT_FINITE = [np.nan, np.inf, -np.inf]
ISAS = list(dict.fromkeys(k["isa"] for k in runtime_ext.describe()["kernels"] if k["available"] and k["isa"] != "i8mm"))
each_isa = pytest.mark.parametrize("isa", ISAS)
FORMS = [
    (FREE, False),
    (FREE, True),
    (Levels(True, 3), False),
    (Levels(True, GROUP_ZEROS), False),
    (Levels(True), True),
]


def bound_of(kernel: str, problem: Problem) -> np.ndarray:
    """The derived bound of a kernel; 0 where the reference is not finite, and results must be equal."""
    if kernel == EXACT:
        bound = 1e-9 * problem.float_error()
    else:
        error = problem.level_error_bound if kernel in LEVEL_KERNELS else problem.error_bound
        bound = error(LEVELS[kernel])
    return np.nan_to_num(bound, nan=0.0, posinf=0.0)


@each(LEVELS)
@given(
    problem=problems(rows=(2, 5, 19)),
    values=st.lists(st.tuples(st.integers(0, 2**16), st.sampled_from(NOT_FINITE)), min_size=1, max_size=3),
    row=st.integers(0, 18),
)
@settings(max_examples=40)
def test_what_is_not_finite_stays_in_its_row(kernel, problem, values, row):
    row %= len(problem.x)
    usual = product(kernel, problem)
    for place, value in values:
        problem.x[row, place % problem.K] = value
    y = product(kernel, problem)
    others = np.arange(len(y)) != row
    np.testing.assert_array_equal(y[others], usual[others])
    with np.errstate(invalid="ignore", over="ignore"):
        assert_close(y, problem, bound_of(kernel, problem))


@each(LEVELS)
@pytest.mark.parametrize("rows", [1, 19])
@pytest.mark.parametrize("outlier", [1e4, -1e4, 1e30])
@pytest.mark.parametrize(("levels", "offset"), FORMS)
def test_an_outlier_costs_its_own_segment_alone(kernel, rows, outlier, levels, offset):
    if not serves(kernel, levels):
        pytest.skip(f"{kernel} serves other levels")
    problem = make_problem(M=rows, K=350, N=40, group_size=96, planes=3, offset=offset, levels=levels)
    problem.x[:, 37] *= outlier
    y = product(kernel, problem)
    assert_close(y, problem, bound_of(kernel, problem))  # whose steps are those of each segment


@each(LEVELS)
@pytest.mark.parametrize("rows", [1, 19])
@pytest.mark.parametrize(("levels", "offset"), FORMS)
def test_rows_of_zeros_are_zero(kernel, rows, levels, offset):
    if not serves(kernel, levels):
        pytest.skip(f"{kernel} serves other levels")
    problem = make_problem(M=rows, K=190, N=40, group_size=96, planes=3, offset=offset, levels=levels)
    problem.x[rows // 2] = 0
    y = product(kernel, problem)
    np.testing.assert_array_equal(y[rows // 2], np.zeros(40, np.float32))


@each(LEVELS)
@pytest.mark.parametrize("rows", [1, 19])
@pytest.mark.parametrize(("levels", "offset"), [FORMS[1], FORMS[4], FORMS[0]])
def test_groups_of_equal_weights_are_the_sum_of_their_inputs(kernel, rows, levels, offset):
    if not serves(kernel, levels):
        pytest.skip(f"{kernel} serves other levels")
    problem = make_problem(M=rows, K=190, N=40, group_size=96, offset=offset, levels=levels)
    problem.scales[: len(problem.scales) - offset, :, 1] = 0  # a1 = a2 = 0: the offset alone, or nothing
    assert_close(product(kernel, problem), problem, bound_of(kernel, problem))


UNUSUAL = [0.0, -0.0, -0.25, np.inf, -np.inf, np.nan, 2.0**-24, -(2.0**-24), 2.0**-15, 65504.0]
WIDE = [*UNUSUAL, 1e-44, 1e-38, 3e38, -3e38]


@each(LEVELS)
@given(
    problem=problems(rows=(1, 3, 19), scale_types=(np.dtype(np.float16), np.dtype(np.float32))),
    scales=st.lists(st.tuples(st.integers(0, 2**20), st.sampled_from(WIDE)), min_size=1, max_size=6),
)
@settings(max_examples=80)
def test_scales_of_every_value_follow_ieee_rules(kernel, problem, scales):
    with np.errstate(over="ignore"):
        for place, value in scales:
            problem.scales.flat[place % problem.scales.size] = value
    with np.errstate(invalid="ignore", over="ignore"):
        assert_close(product(kernel, problem), problem, bound_of(kernel, problem))


@each(LEVELS)
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e-40, 3e38, 0.0])
def test_bfloat16_scales_of_every_value_follow_ieee_rules(kernel, value):
    problem = problem_for(kernel, M=3, K=190, N=40, group_size=96, scale_type=BFLOAT16)
    bits = np.array(value, np.float32).view(np.uint32) >> 16
    problem.scales.view(np.uint16)[0, 3, 1] = bits
    with np.errstate(invalid="ignore", over="ignore"):
        assert_close(product(kernel, problem), problem, bound_of(kernel, problem))


@each(LEVELS)
@pytest.mark.parametrize("rows", [1, 19])
def test_results_beyond_float16_are_infinite_and_others_are_not(kernel, rows):
    problem = problem_for(kernel, M=rows, K=190, N=40, group_size=96, x_type=np.float16)
    with np.errstate(over="ignore"):
        problem.x[rows // 2] *= np.float16(20000)
    problem.scales[:] *= np.float16(30)
    problem.x[:] = np.clip(problem.x, -65504, 65504)
    y = product(kernel, problem)
    assert np.isinf(y[rows // 2]).any()
    assert np.isfinite(np.delete(y, rows // 2, axis=0)).all()
    expected = problem.reference()
    # A result within the bound of the largest number may fall to either side.
    clear = np.abs(np.abs(expected) - 65520) > bound_of(kernel, problem) + 32
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(np.isinf(y)[clear], np.isinf(expected.astype(np.float16))[clear])


def compute(case: BlockCase) -> list[np.ndarray]:
    return [np.asarray(value) for value in open_session(case.model()).run(None, case.inputs)]


def changed(case: BlockCase, **arrays: np.ndarray) -> BlockCase:
    """The case with other inputs or constants."""
    constants = {name: arrays.get(name, value) for name, value in case.constants.items()}
    return replace(case, constants=constants, inputs={n: arrays.get(n, value) for n, value in case.inputs.items()})


@each_isa
@pytest.mark.parametrize("level", [0, 4])
@pytest.mark.parametrize("value", [*NOT_FINITE, 3e38])
@pytest.mark.parametrize("rows", [3, 40])
def test_what_is_not_finite_stays_in_its_row_of_a_mlp(isa, level, value, rows, monkeypatch):
    monkeypatch.setenv("DUALBINARY_ISA", isa)
    case = mlp_case((rows,), level=level)
    usual = compute(case)[0]
    x = case.inputs["X"].copy()
    x[1, 5] = value
    y = compute(changed(case, X=x))[0]
    others = np.arange(rows) != 1
    np.testing.assert_array_equal(y[others], usual[others])
    if not np.isfinite(value):
        assert not np.isfinite(y[1, 5])
    if np.isnan(value):
        assert np.isnan(y[1]).all()


@each_isa
@pytest.mark.parametrize("activation", [0, 1, 2, 3])
def test_a_gate_that_is_no_number_leaves_no_number(isa, activation, monkeypatch):
    monkeypatch.setenv("DUALBINARY_ISA", isa)
    case = mlp_case((3,), activation=activation, bias=True)
    bias = case.constants["gate_up_bias"].copy()
    bias[7] = np.nan  # of a gate, not of what it is multiplied by
    assert np.isnan(compute(changed(case, gate_up_bias=bias))[0]).all()


@each_isa
@pytest.mark.parametrize("magnitude", [64.0, 1e18, 1e20, 1e36])
def test_a_norm_takes_the_magnitude_of_numbers_whose_squares_overflow(isa, magnitude, monkeypatch):
    monkeypatch.setenv("DUALBINARY_ISA", isa)
    case = attention_case(2, (3,), 8, rotated=None)  # whose keys and values are those of normed rows
    scaled = changed(case, X=case.inputs["X"] * np.float32(magnitude))
    for usual, found in zip(compute(case)[1:], compute(scaled)[1:], strict=True):
        assert np.abs(found - usual).max() < 1e-3 * np.abs(usual).max()


@each_isa
@pytest.mark.parametrize("cache", [np.float32, np.float16, np.int8])
@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize(("S", "before", "window"), [(4, (9, 2), 0), (8, (130,), 5), (20, (0,), 0), (90, (70,), 33)])
def test_a_token_that_is_not_finite_reaches_those_alone_that_see_it(isa, cache, value, S, before, window, monkeypatch):
    monkeypatch.setenv("DUALBINARY_ISA", isa)
    case = attention_case(S, before, max(before) + S + 2, cache=cache, products=False, window=window, rotated=None)
    usual = compute(case)
    token, (h, g, D) = S // 2, (4, 2, 16)
    for place in (h * D + 3, (h + g) * D + 3):  # of a key, of a value
        x = case.inputs["X"].copy()
        x[0, token, place] = value
        y, *present = compute(changed(case, X=x))
        behind = np.arange(S) >= token
        seeing = behind & (np.arange(S) < token + window) if window else behind
        heads = slice(0, (h // g) * D)  # those that read the first key head
        np.testing.assert_array_equal(y[0, ~seeing], usual[0][0, ~seeing])
        np.testing.assert_array_equal(y[1:], usual[0][1:])
        reached, before_it = (each[0, seeing][:, heads].reshape(-1, D) for each in (y, usual[0]))
        is_key = place < (h + g) * D
        if cache == np.int8 or (is_key and np.isnan(value)):
            assert np.isnan(reached).all()
        elif is_key:  # a score is infinite: of one sign the token counts for nothing, of the other the sum is none
            assert (np.isnan(reached).all(axis=1) | np.isfinite(reached).all(axis=1)).all()
        else:
            assert not np.isfinite(reached[:, 3]).any()
            np.testing.assert_array_equal(np.delete(reached, 3, axis=1), np.delete(before_it, 3, axis=1))
        if cache == np.int8:
            row = present[0 if is_key else 1][0, 0, before[0] + token]
            assert np.isnan(row[D:].copy().view("<f4"))
            assert not row[:D].any()


@each_isa
@pytest.mark.parametrize("S", [1, 20])
def test_a_key_of_the_past_that_is_no_number_is_not_lost(isa, S, monkeypatch):
    # The last of a piece of keys, and of a tile, and the only one that a row sees there.
    monkeypatch.setenv("DUALBINARY_ISA", isa)
    before = 128 if S == 1 else 64
    case = attention_case(S, (before,), before + S, products=False, rotated=None)
    x = case.inputs["X"].copy()
    x[0, 0, 4 * 16 : 6 * 16] = np.nan  # the keys of the first new token
    y = compute(changed(case, X=x))[0]
    assert np.isnan(y[0, 0]).all()


@each_isa
@given(
    rows=st.lists(
        st.sampled_from([0.0, 1.0, -3.0, 1e-44, 1e-38, 1.4e-36, 1.6e-36, 1e30, 3e38, np.nan, np.inf, -np.inf]),
        min_size=8,
        max_size=8,
    )
)
@settings(max_examples=40, deadline=None)
def test_rows_of_an_int8_cache_are_those_of_the_contract(isa, rows):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DUALBINARY_ISA", isa)
        case = attention_case(1, (0,), 1, heads=(1, 1, 8), products=False, cache=np.int8, rotated=None)
        head = np.array(rows, np.float32)
        x = np.concatenate([np.ones(8, np.float32), head, head])[None, None]
        _, key, value = compute(changed(case, X=x))
    expected = int8_rows(head)
    for present in (key, value):
        np.testing.assert_array_equal(present[0, 0, 0, :8], expected[:8])
        factor, wanted = (np.ascontiguousarray(each[8:]).view("<f4")[0] for each in (present[0, 0, 0], expected))
        np.testing.assert_array_equal(factor, wanted)
