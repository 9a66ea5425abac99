"""SignedHadamard: every kernel through the C API, and the op inside ONNX Runtime."""

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings

import runtime_ext
from dualbinary import HADAMARD, InputError
from dualbinary.contract.golden import hadamard as golden
from runtime_ext.capi import signed_hadamard
from tests.support.hadamards import DTYPES, Case, assert_close, cases, make_case, op_model
from tests.support.sessions import open_session, run

KERNELS = runtime_ext.describe()["hadamard_kernels"]
SCALAR = "hadamard_scalar"
GUARD = 64
"""Elements behind an output that no kernel may touch."""

each_kernel = pytest.mark.parametrize(
    "kernel",
    [
        pytest.param(
            kernel["name"],
            marks=() if kernel["available"] else pytest.mark.skip(reason=f"this CPU cannot run {kernel['name']}"),
        )
        for kernel in KERNELS
    ],
)


def transform(kernel: str | None, case: Case, parallel=None) -> np.ndarray:
    rows = case.x.reshape(int(np.prod(case.x.shape[:-1])), case.K)
    y = signed_hadamard(rows, case.signs, case.block_size, case.inverse, kernel=kernel, parallel=parallel)
    return y.reshape(case.x.shape)


@each_kernel
@given(case=cases())
@settings(max_examples=150)
def test_transform_of_any_shape_is_within_the_derived_bound_and_the_same_for_all_kernels(kernel, case):
    y = transform(kernel, case)
    assert_close(y, case)
    np.testing.assert_array_equal(y.view(np.uint8), transform(SCALAR, case).view(np.uint8))


@each_kernel
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("inverse", [0, 1])
@pytest.mark.parametrize("block_size", [8192, 16384, HADAMARD.limits["max_block_size"]])
def test_the_largest_blocks(kernel, block_size, inverse, dtype):
    case = make_case((1,), block_size, block_size, inverse, dtype)
    assert_close(transform(kernel, case), case)


@each_kernel
@pytest.mark.parametrize("case", golden.load(), ids=lambda case: case["name"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_golden_vectors_are_met_exactly(kernel, case, dtype):
    x = np.array(case["x"], dtype).reshape(case["M"], case["K"])
    signs = np.array(case["signs"], np.int8)
    y = signed_hadamard(x, signs, case["block_size"], case["inverse"], kernel=kernel)
    np.testing.assert_array_equal(y.ravel(), np.array(case["y"]))


@each_kernel
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("K", "block_size"), [(6, 2), (20, 4), (72, 8), (48, 16), (96, 32), (192, 64), (1024, 1024)])
def test_nothing_behind_the_output_is_touched(kernel, K, block_size, dtype):
    case = make_case((3,), K, block_size, dtype=dtype)
    room = np.full(case.x.size + GUARD, 7, dtype)
    out = room[: case.x.size].reshape(3, K)
    signed_hadamard(case.x, case.signs, block_size, out=out, kernel=kernel)
    assert_close(out, case)
    assert (room[case.x.size :] == 7).all()


@each_kernel
@pytest.mark.parametrize("block_size", [4, 1024])
def test_results_do_not_depend_on_threads(kernel, block_size):
    case = make_case((129,), 5120, block_size)
    counts = []
    with ThreadPoolExecutor(4) as pool:

        def parallel(task, count):
            counts.append(count)
            list(pool.map(task, reversed(range(count))))

        y = transform(kernel, case, parallel)
    assert counts[0] > 1
    np.testing.assert_array_equal(y, transform(kernel, case))


@each_kernel
def test_one_transform_undoes_the_other(kernel):
    case = make_case((3,), 640, 128)
    back = replace(case, x=transform(kernel, case), inverse=1)
    # The bound of the first, whose errors the second spreads but does not increase in norm, and that of the second.
    np.testing.assert_allclose(transform(kernel, back), case.x, atol=2 * 9 * np.finfo(np.float32).eps * case.sums.max())


@each_kernel
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block_size", [8, 256])
def test_no_sum_on_the_way_overflows_before_the_result_does(kernel, block_size, dtype):
    largest = float(np.finfo(dtype).max)
    case = make_case((1,), block_size, block_size, dtype=dtype)
    x = np.full_like(case.x, largest / block_size**0.5 * 0.99)
    y = transform(kernel, replace(case, x=x, signs=np.ones_like(case.signs)))
    assert np.isfinite(y).all()
    assert y[0, 0] > 0.98 * largest
    x[0, 1] = np.nan
    assert np.isnan(transform(kernel, replace(case, x=x))).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"block_size": 3}, "block_size: expected a power of two from 2 to 32768, got 3"),
        ({"block_size": 1}, "block_size: expected a power of two from 2 to 32768, got 1"),
        ({"block_size": 128}, "S: expected as many signs as X has inputs, a multiple of block_size = 128, got 64"),
        ({"inverse": 2}, "inverse: expected 0 or 1, got 2"),
        ({"kernel": "hadamard_sse"}, "kernel 'hadamard_sse' is unknown; available: .*hadamard_scalar"),
    ],
)
def test_the_c_interface_refuses_with_one_error(arguments, message):
    case = make_case()
    with pytest.raises(InputError, match=message):
        signed_hadamard(case.x, case.signs, **{"block_size": 16, **arguments})


@settings(max_examples=50)
@given(case=cases(1024))
def test_one_node_gives_the_reference(case):
    assert_close(run(open_session(op_model(case)), case.x), case)


@pytest.mark.parametrize("version", [1, 2])
def test_a_node_of_either_version_of_the_domain(version):
    case = make_case()
    model = op_model(case)
    model.opset_import[1].version = version
    assert_close(run(open_session(model), case.x), case)


def test_inverse_is_0_where_a_node_does_not_say_it_and_symbols_of_x_stay():
    case = make_case((2, 3))
    session = open_session(op_model(case, x_dims=["batch", 3, "inputs"], inverse=None))
    assert session.get_outputs()[0].shape == ["batch", 3, case.K]
    assert_close(run(session, case.x), case)


def test_a_session_of_many_threads_gives_what_one_thread_gives():
    case = make_case((2, 100), 2048, 256)
    y = run(open_session(op_model(case), threads=4), case.x)
    np.testing.assert_array_equal(y, run(open_session(op_model(case)), case.x))
    assert_close(y, case)


def with_signs(signs: np.ndarray) -> Case:
    return replace(make_case(), signs=signs)


SIGNS = make_case().signs


@pytest.mark.parametrize(
    ("case", "attributes", "message"),
    [
        (make_case(), {"block_size": None}, "attribute block_size is missing; expected an integer"),
        (make_case(), {"block_size": "16"}, "attribute block_size: expected an integer, got another type"),
        (make_case(), {"block_size": 16.0}, "attribute block_size: expected an integer, got another type"),
        (make_case(), {"inverse": [0]}, "attribute inverse: expected an integer, got another type"),
        (make_case(), {"block_size": 0}, "block_size: expected a power of two from 2 to 32768, got 0"),
        (make_case(), {"block_size": -16}, "block_size: expected a power of two from 2 to 32768, got -16"),
        (make_case(), {"block_size": 48}, "block_size: expected a power of two from 2 to 32768, got 48"),
        (make_case(), {"block_size": 1 << 16}, "block_size: expected a power of two from 2 to 32768, got 65536"),
        (make_case(), {"block_size": -(1 << 63)}, "block_size: expected a power of two from 2 to 32768, got -9223"),
        (make_case(), {"block_size": 128}, "S: expected as many signs as X has inputs, .* = 128, got 64"),
        (make_case(), {"inverse": 2}, "inverse: expected 0 or 1, got 2"),
        (with_signs(SIGNS * np.int8(2)), {}, "S: expected 1 or -1 for each input, got -?2"),
        (with_signs(SIGNS * np.int8(0)), {}, "S: expected 1 or -1 for each input, got 0"),
        (with_signs(np.where(np.arange(64) == 63, np.int8(-128), SIGNS)), {}, "expected 1 or -1 .* got -128"),
        (with_signs(SIGNS.reshape(1, 64)), {"x_dims": ["d", 64]}, r"S: expected shape \[K\], got \[1, 64\]"),
        (with_signs(SIGNS[:0]), {"x_dims": ["d", 64]}, "S: expected as many signs as X has inputs"),
        (make_case(), {"constant": False}, "S: must be a constant initializer of the model"),
        (with_signs(SIGNS.astype(np.float32)), {}, "Type"),
    ],
)
def test_a_wrong_node_is_refused_with_one_error(case, attributes, message):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    runtime_ext.register(options)
    with pytest.raises(Exception, match=message) as caught:
        ort.InferenceSession(op_model(case, **attributes).SerializeToString(), options)
    assert HADAMARD.name in str(caught.value)


@pytest.mark.parametrize(
    ("x_dims", "shape"),
    [(["rows", "inputs"], (2, 80)), (["rows", 80], (2, 80)), (["rows", "inputs"], (2, 16)), ([], ())],
)
def test_an_input_of_another_width_is_refused_at_the_call(x_dims, shape):
    """ONNX Runtime takes what shape inference refuses for a warning."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    runtime_ext.register(options)
    session = ort.InferenceSession(op_model(make_case(), x_dims=x_dims).SerializeToString(), options)
    message = f"SignedHadamard node 'turn': X: expected shape [.., 64], got {list(shape)}"
    with pytest.raises(Exception, match=re.escape(message)):
        run(session, np.zeros(shape, np.float32))


@pytest.mark.parametrize("isa", sorted({k["isa"] for k in runtime_ext.describe()["kernels"] if k["available"]}))
def test_every_instruction_set_that_can_be_forced_has_a_kernel(isa, monkeypatch):
    monkeypatch.setenv("DUALBINARY_ISA", isa)
    case = make_case()
    assert_close(run(open_session(op_model(case)), case.x), case)
    monkeypatch.setenv("DUALBINARY_ISA", "sse")
    with pytest.raises(
        Exception, match="SignedHadamard node 'turn': DUALBINARY_ISA=sse: this machine and build have no"
    ):
        open_session(op_model(case))
