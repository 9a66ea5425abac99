"""The op on CUDA devices inside ONNX Runtime: models of one node, through sessions of the CUDA provider."""

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import runtime_ext
from runtime_ext.library import library_path
from tests.support.cuda_products import X_TYPES, assert_product, cuda_model, run
from tests.support.problems import ALL_SCALE_TYPES, Problem, make_problem, op_model

PROVIDER = "CUDAExecutionProvider"

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", autouse=True)
def _provider_and_kernels():
    if PROVIDER not in ort.get_available_providers():
        pytest.skip(f"this onnxruntime has no {PROVIDER}; onnxruntime-gpu has")
    named = os.environ.get("DUALBINARY_CUDA_LIBRARY")
    kernels = Path(named) if named else library_path().with_name("libdualbinary_cuda.so")
    if not kernels.is_file():
        pytest.skip(f"there is no {kernels}; build with -DDUALBINARY_CUDA=ON")


def open_session(model: onnx.ModelProto | str, **provider_options: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    # A node that the provider does not take is then an error, and so is a provider that does not start.
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    runtime_ext.register(options)
    source = model if isinstance(model, str) else model.SerializeToString()
    session = ort.InferenceSession(source, options, providers=[(PROVIDER, provider_options)])
    assert PROVIDER in session.get_providers()
    return session


@pytest.mark.parametrize(("x_type", "scale_type", "offset"), product(X_TYPES, ALL_SCALE_TYPES, [False, True]))
def test_every_combination_of_types_gives_the_product(x_type, scale_type, offset):
    problem = make_problem(M=(2, 3), K=100, group_size=32, x_type=x_type, scale_type=scale_type, offset=offset)
    assert_product(run(open_session(cuda_model(problem)), problem.x), problem)


@pytest.mark.parametrize("x_type", X_TYPES)
@pytest.mark.parametrize("planes", [1, 2, 3, 4])
@pytest.mark.parametrize("rows", [1, 2, 17, 300])
def test_any_number_of_planes_and_rows_gives_the_product(x_type, planes, rows):
    problem = make_problem(M=rows, K=1024, N=200, group_size=128, planes=planes, offset=True, x_type=x_type)
    assert_product(run(open_session(cuda_model(problem)), problem.x), problem)


@pytest.mark.parametrize("lead", [(), (1,), (3,), (2, 3), (2, 1, 2, 2), (0,), (2, 0, 3)])
def test_any_leading_dimensions(lead):
    problem = make_problem(M=lead, K=70, N=33, group_size=32)
    y = run(open_session(op_model(problem)), problem.x)
    assert y.shape == (*lead, 33)
    assert_product(y, problem)


def test_weights_in_a_mapped_file(tmp_path):
    path = str(tmp_path / "model.onnx")
    problem = make_problem(M=2, K=512, N=1024, offset=True, x_type=np.float16)
    onnx.save(op_model(problem), path, save_as_external_data=True, size_threshold=0)
    assert_product(run(open_session(path), problem.x), problem)


@pytest.mark.parametrize("rows", [1, 5, 64])
def test_a_captured_graph_takes_the_inputs_of_each_replay(rows):
    problem = make_problem(M=rows, K=1024, N=512, x_type=np.float16)
    session = open_session(op_model(problem, x_dims=[rows, problem.K]), enable_cuda_graph="1")
    x = ort.OrtValue.ortvalue_from_numpy(problem.x, "cuda", 0)
    y = ort.OrtValue.ortvalue_from_shape_and_type([rows, problem.N], np.float16, "cuda", 0)
    binding = session.io_binding()
    binding.bind_ortvalue_input("X", x)
    binding.bind_ortvalue_output("Y", y)
    # The first run captures the graph, the others replay it.
    for factor in (1, -2, 0.5):
        inputs = problem.x * np.float16(factor)
        x.update_inplace(inputs)
        session.run_with_iobinding(binding)
        of_this_run = Problem(inputs, problem.planes, problem.scales, problem.K, problem.N, problem.group_size)
        assert_product(y.numpy(), of_this_run)


def test_concurrent_runs_of_one_session():
    problem = make_problem(M=40, K=1024, N=1024, x_type=np.float16)
    session = open_session(op_model(problem))
    assert_concurrent_runs_equal_single_ones([session] * 4, problem)


def test_concurrent_runs_of_sessions_with_streams_of_their_own():
    problem = make_problem(M=40, K=1024, N=1024, x_type=np.float16)
    model = op_model(problem)
    assert_concurrent_runs_equal_single_ones([open_session(model), open_session(model)], problem)


def assert_concurrent_runs_equal_single_ones(sessions: list[ort.InferenceSession], problem: Problem) -> None:
    inputs = [problem.x[: 1 + 13 * (i % 4)] + np.float16(i) for i in range(32)]
    expected = [run(sessions[0], x) for x in inputs]
    with ThreadPoolExecutor(len(sessions)) as pool:
        jobs = [pool.submit(run, sessions[i % len(sessions)], x) for i, x in enumerate(inputs)]
        for job, alone in zip(jobs, expected, strict=True):
            np.testing.assert_array_equal(job.result(), alone)
