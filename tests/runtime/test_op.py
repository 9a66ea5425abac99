"""The op inside ONNX Runtime: models of one node, through sessions."""

from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dualbinary import OP
from tests.support.problems import ALL_SCALE_TYPES, Problem, assert_close, make_problem, op_model, problems
from tests.support.sessions import open_session, run

KINDS = {np.dtype(np.float32): "tensor(float)", np.dtype(np.float16): "tensor(float16)"}


@given(problem=problems(), level=st.sampled_from([0, 4]))
def test_one_node_gives_the_reference(problem, level):
    y = run(open_session(op_model(problem, accuracy_level=level)), problem.x)
    assert y.dtype == problem.x.dtype
    assert_close(y, problem, problem.error_bound(level))


@pytest.mark.parametrize(
    ("x_type", "scale_type", "offset"),
    product([np.float32, np.float16], ALL_SCALE_TYPES, [False, True]),
)
def test_every_combination_of_types_has_a_kernel_and_keeps_the_type(x_type, scale_type, offset):
    problem = make_problem(M=(2, 3), K=100, group_size=32, x_type=x_type, scale_type=scale_type, offset=offset)
    session = open_session(op_model(problem))
    assert session.get_outputs()[0].type == KINDS[np.dtype(x_type)]
    assert_close(run(session, problem.x), problem, problem.error_bound(0))


@pytest.mark.parametrize("version", [1, 2])
def test_a_node_of_either_version_gives_the_reference(version):
    problem = make_problem()
    model = op_model(problem)
    (ours,) = (opset for opset in model.opset_import if opset.domain == OP.domain)
    ours.version = version
    assert_close(run(open_session(model), problem.x), problem, problem.error_bound(0))


@pytest.mark.parametrize("lead", [(), (1,), (3,), (2, 3), (2, 1, 2, 2), (0,), (2, 0, 3)])
def test_any_leading_dimensions(lead):
    problem = make_problem(M=lead, K=70, N=33, group_size=32)
    y = run(open_session(op_model(problem)), problem.x)
    assert y.shape == (*lead, 33)
    assert_close(y, problem, problem.error_bound(0))


def test_inferred_shape_keeps_the_symbols_of_x():
    problem = make_problem(M=(2, 3))
    session = open_session(op_model(problem, x_dims=["batch", 3, problem.K]))
    assert session.get_outputs()[0].shape == ["batch", 3, problem.N]


def test_two_nodes_share_their_initializers():
    problem = make_problem(K=64, N=64, group_size=32)
    model = op_model(problem)
    second = model.graph.node.add()
    second.CopyFrom(model.graph.node[0])
    second.name, second.input[0], second.output[0] = "second", "Y", "Z"
    model.graph.output[0].name = "Z"
    first = problem.reference()
    chained = Problem(first.astype(np.float32), problem.planes, problem.scales, 64, 64, 32)
    # The first product's error passes through the second weight, whose entries are sums of the scales.
    through = np.abs(problem.scales).sum() * problem.error_bound(0).max()
    assert_close(run(open_session(model), problem.x), chained, chained.error_bound(0) + through)


def test_threads_do_not_change_the_result():
    problem = make_problem(M=3, K=1024, N=2048)
    model = op_model(problem, accuracy_level=4)
    np.testing.assert_array_equal(run(open_session(model, 2), problem.x), run(open_session(model, 1), problem.x))


def test_repeated_runs_are_equal():
    problem = make_problem(M=4, K=1024, N=1024)
    session = open_session(op_model(problem), 2)
    first = run(session, problem.x)
    for _ in range(10):
        np.testing.assert_array_equal(run(session, problem.x), first)


def test_concurrent_runs_of_one_session():
    problem = make_problem(M=2, K=1024, N=1024)
    session = open_session(op_model(problem), 2)
    inputs = [problem.x[: 1 + i % 2] + i for i in range(32)]
    expected = [run(session, x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for result, alone in zip(pool.map(lambda x: run(session, x), inputs), expected, strict=True):
            np.testing.assert_array_equal(result, alone)


def test_sessions_do_not_disturb_one_another():
    wide, narrow = make_problem(K=512, N=64), make_problem(K=96, N=17, group_size=32, seed=1)
    first, second = open_session(op_model(wide)), open_session(op_model(narrow, accuracy_level=4))
    expected = run(first, wide.x)
    assert_close(run(second, narrow.x), narrow, narrow.error_bound(4))
    del second
    np.testing.assert_array_equal(run(first, wide.x), expected)


@given(place=st.integers(0, 511), value=st.sampled_from([np.nan, np.inf, -np.inf, 3e38, 1e-44]))
@settings(max_examples=10)
def test_special_values_reach_the_weights_in_a_mapped_file(tmp_path_factory, place, value):
    # Such a row is computed from the stored weight, whose pages were released after packing.
    path = str(tmp_path_factory.mktemp("external") / "model.onnx")
    problem = make_problem(M=2, K=512, N=1024, group_size=64, offset=True)
    onnx.save(op_model(problem), path, save_as_external_data=True, size_threshold=0)
    problem.x[1, place] = value
    y = run(open_session(path), problem.x)
    with np.errstate(invalid="ignore", over="ignore"):
        assert_close(y, problem, np.nan_to_num(problem.error_bound(0), nan=0.0, posinf=0.0))


def test_float16_overflow_is_infinity():
    problem = make_problem(K=64, N=8, group_size=32, x_type=np.float16)
    problem.x[:] = 60000
    problem.planes[:] = 0xFF
    problem.scales[:] = 1
    np.testing.assert_array_equal(run(open_session(op_model(problem)), problem.x), np.full((1, 8), np.inf, np.float16))
