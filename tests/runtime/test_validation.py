"""Damaged nodes and calls: each gives one error that names the node, what is wrong, what was expected and what came."""

import ctypes
from dataclasses import replace

import ml_dtypes
import numpy as np
import onnxruntime as ort
import pytest

import runtime_ext
from dualbinary import InputError
from dualbinary.contract.levels import GROUP_ZEROS, Levels
from runtime_ext.capi import Spec, Weight
from runtime_ext.library import library_path
from tests.support.kernels import AVAILABLE, FREE_LEVELS, LEVELS, each
from tests.support.problems import Problem, make_problem, op_model

GOOD = make_problem(K=64, N=8, group_size=32)  # planes [2, 8, 8], scales [2, 8, 2]


def load(problem: Problem = GOOD, **options) -> ort.InferenceSession:
    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    runtime_ext.register(settings)
    return ort.InferenceSession(op_model(problem, **options).SerializeToString(), settings)


def with_tensors(
    planes: tuple[int, ...] = (2, 8, 8), scales: tuple[int, ...] = (2, 8, 2), kind: type = np.float16
) -> Problem:
    return Problem(GOOD.x, np.zeros(planes, np.uint8), np.zeros(scales, kind), 64, 8, 32)


def with_factor(bits: int) -> Problem:
    """Coded scales of which one factor, of row 1 of output 3, has the given bits."""
    problem = with_tensors(scales=(2, 8, 4), kind=np.uint8)
    problem.scales[1, 3, :2] = [bits & 255, bits >> 8]
    return problem


def test_the_undamaged_node_loads():
    load()


@pytest.mark.parametrize(
    ("attributes", "parts"),
    [
        ({"K": None}, ["attribute K is missing"]),
        ({"N": None}, ["attribute N is missing"]),
        ({"group_size": None}, ["attribute group_size is missing"]),
        ({"K": "64"}, ["attribute K", "expected an integer"]),
        ({"layout": "plain"}, ["attribute layout", "expected an integer"]),
        ({"accuracy_level": 4.0}, ["attribute accuracy_level", "expected an integer"]),
        ({"group_size": [32, 64]}, ["attribute group_size", "expected an integer"]),
        ({"K": 0}, ["K: expected 1 to 2147483647, got 0"]),
        ({"K": -64}, ["K: expected 1 to 2147483647, got -64"]),
        ({"K": 2**31}, ["K: expected 1 to 2147483647, got 2147483648"]),
        ({"K": 2**63 - 1}, ["K: expected 1 to 2147483647, got 9223372036854775807"]),
        ({"N": 0}, ["N: expected 1 to 2147483647, got 0"]),
        ({"N": 2**40}, ["N: expected 1 to 2147483647, got 1099511627776"]),
        ({"N": 9}, ["planes: expected shape [2, 9, 8], got [2, 8, 8]"]),
        ({"K": 65}, ["planes: expected shape [2, 8, 12], got [2, 8, 8]"]),
        ({"group_size": 0}, ["group_size: expected a positive multiple of 32, got 0"]),
        ({"group_size": -32}, ["group_size: expected a positive multiple of 32, got -32"]),
        ({"group_size": 48}, ["group_size: expected a positive multiple of 32, got 48"]),
        ({"group_size": 96}, ["group_size: expected at most 64 for K = 64, got 96"]),
        ({"group_size": 2**62}, ["group_size: expected at most 64", str(2**62)]),
        ({"group_size": 64}, ["scales: expected shape [2, 8, 1], got [2, 8, 2]"]),
        ({"layout": 0}, ["layout: expected one of 1 (plain), 2 (avx512), 3 (avx2), 4 (neon)", "got 0"]),
        ({"layout": 6}, ["layout: expected one of 1 (plain)", "got 6"]),
        ({"layout": -1}, ["layout: expected one of 1 (plain)", "got -1"]),
        ({"layout": 2**62}, ["layout: expected one of 1 (plain)", f"got {2**62}"]),
        ({"accuracy_level": 3}, ["accuracy_level: expected 0 or 4, got 3"]),
    ],
)
def test_a_wrong_attribute_is_refused(attributes, parts):
    assert_refused(parts, **attributes)


@pytest.mark.parametrize(
    ("problem", "parts"),
    [
        (with_tensors(planes=(2, 8, 7)), ["planes: expected shape [2, 8, 8], got [2, 8, 7]"]),
        (with_tensors(planes=(2, 7, 8)), ["planes: expected shape [2, 8, 8], got [2, 7, 8]"]),
        (with_tensors(planes=(16, 8)), ["planes: expected shape [P, N, Kp/8], got [16, 8]"]),
        (with_tensors(planes=(2, 8, 8, 1)), ["planes: expected shape [P, N, Kp/8], got [2, 8, 8, 1]"]),
        (with_tensors(planes=(0, 8, 8)), ["number of planes: expected 1 to 8, got 0"]),
        (with_tensors(planes=(9, 8, 8), scales=(9, 8, 2)), ["number of planes: expected 1 to 8, got 9"]),
        (with_tensors(scales=(1, 8, 2)), ["rows of scales: expected 2 to 3, got 1"]),
        (with_tensors(scales=(4, 8, 2)), ["rows of scales: expected 2 to 3, got 4"]),
        (with_tensors(scales=(2, 8, 3)), ["scales: expected shape [2, 8, 2], got [2, 8, 3]"]),
        (with_tensors(scales=(3, 9, 2)), ["scales: expected shape [3, 8, 2], got [3, 9, 2]"]),
        (with_tensors(scales=(32,)), ["scales: expected shape [C, N, Kp/G], got [32]"]),
        (with_tensors(scales=(2, 8, 2), kind=np.uint8), ["scales: expected shape [2, 8, 4], got [2, 8, 2]"]),
        (with_tensors(scales=(2, 8, 5), kind=np.uint8), ["scales: expected shape [2, 8, 4], got [2, 8, 5]"]),
        (with_tensors(scales=(4, 8, 4), kind=np.uint8), ["rows of scales: expected 2 to 3, got 4"]),
        (with_tensors(scales=(2, 8, 4)), ["scales: expected shape [2, 8, 2], got [2, 8, 4]"]),
    ],
)
def test_a_tensor_of_the_wrong_shape_is_refused(problem, parts):
    assert_refused(parts, problem)


EVEN = make_problem(K=64, N=8, group_size=32, planes=2, levels=Levels(True, 3))  # scales [1, 8, 2]
ZEROS = make_problem(K=64, N=8, group_size=32, planes=2, levels=Levels(True, GROUP_ZEROS))  # planes [2, 8, 9]
ONE_STEP = make_problem(K=64, N=8, group_size=64, planes=2, levels=Levels(True, 3), per_tensor=True)


def even_with(scales: tuple[int, ...], problem: Problem = EVEN) -> Problem:
    return replace(problem, scales=np.zeros(scales, np.float16))


@pytest.mark.parametrize(
    ("problem", "attributes", "parts"),
    [
        (EVEN, {"levels": 2}, ["levels: expected 0 (free) or 1 (even), got 2"]),
        (EVEN, {"levels": -1}, ["levels: expected 0 (free) or 1 (even), got -1"]),
        (EVEN, {"levels": "even"}, ["attribute levels", "expected an integer"]),
        (EVEN, {"twice_zero": 0.5}, ["attribute twice_zero", "expected an integer"]),
        (EVEN, {"twice_zero": 7}, ["twice_zero: expected 0 to 6 for 2 planes, or -1 for a zero point", "got 7"]),
        (EVEN, {"twice_zero": -2}, ["twice_zero: expected 0 to", "got -2"]),
        (EVEN, {"twice_zero": 2**62}, ["twice_zero: expected 0 to 510", f"got {2**62}"]),
        (EVEN, {"twice_zero": -1}, ["planes: expected shape [2, 8, 9], got [2, 8, 8]"]),
        (ZEROS, {"twice_zero": 3}, ["planes: expected shape [2, 8, 8], got [2, 8, 9]"]),
        (even_with((2, 8, 2)), {}, ["twice_zero: expected 0 beside an offset, got 3"]),
        (even_with((2, 8, 2), ZEROS), {}, ["twice_zero: expected 0 beside an offset, got -1"]),
        (even_with((3, 8, 2)), {}, ["rows of scales: expected 1 to 2, got 3"]),
        (even_with((0, 8, 2)), {}, ["rows of scales: expected 1 to 2, got 0"]),
        (
            even_with((1, 1, 2)),
            {},
            ["outputs of scales: expected 8, or 1 in layout plain or codes for even levels", "got 1"],
        ),
        (even_with((1, 7, 2)), {}, ["scales: expected shape [1, 8, 2], got [1, 7, 2]"]),
        (
            ONE_STEP,
            {"twice_zero": -1},
            ["outputs of scales: expected 8, or 1 in layout plain or codes for even levels"],
        ),
        (GOOD, {"twice_zero": 3}, ["twice_zero: expected 0 with free levels, got 3"]),
        (GOOD, {"twice_zero": -1}, ["twice_zero: expected 0 with free levels, got -1"]),
        (with_tensors(scales=(3, 8, 2)), {"levels": 1}, ["rows of scales: expected 1 to 2, got 3"]),
        (GOOD, {"group_size": 16}, ["group_size: expected a positive multiple of 32, or 16 with even levels, got 16"]),
        (EVEN, {"group_size": 48}, ["group_size: expected a positive multiple of 32, or 16 with even levels, got 48"]),
        (EVEN, {"group_size": 8}, ["group_size: expected a positive multiple of 32, or 16 with even levels, got 8"]),
        (EVEN, {"group_size": 16}, ["scales: expected shape [1, 8, 4], got [1, 8, 2]"]),
    ],
)
def test_even_levels_that_do_not_fit_are_refused(problem, attributes, parts):
    assert_refused(parts, problem, **attributes)


@pytest.mark.parametrize("problem", [EVEN, ZEROS, ONE_STEP])
def test_even_levels_that_fit_load(problem):
    load(problem)


def assert_refused(parts: list[str], problem: Problem = GOOD, **attributes) -> None:
    with pytest.raises(Exception) as caught:  # onnxruntime has a class for each code, none of them public
        load(problem, **attributes)
    for part in ["DualBinaryMatMul node 'proj'", *parts]:
        assert part in str(caught.value)


@pytest.mark.parametrize("bits", [0x7C00, 0xFC00, 0x7E00, 0x7C01, 0xFFFF])
def test_a_factor_that_is_not_finite_is_refused(bits):
    message = "scales: expected finite factors, got infinity or NaN in row 1 of output 3"
    assert_refused([message], with_factor(bits))
    problem = with_factor(bits)
    for kernel in AVAILABLE & FREE_LEVELS:
        with pytest.raises(InputError, match=message):
            Weight(problem.planes, problem.scales, K=64, group_size=32, accuracy_level=4, kernel=kernel)


@pytest.mark.parametrize("bits", [0x0000, 0x8000, 0x0001, 0x03FF, 0x7BFF, 0xFBFF])
def test_any_finite_factor_is_accepted(bits):
    load(with_factor(bits))


@pytest.mark.parametrize("computed", ["planes", "scales"])
def test_weights_that_are_not_constant_are_refused(computed):
    constants = tuple({"planes", "scales"} - {computed})
    with pytest.raises(Exception, match=f"node 'proj': {computed}: must be a constant initializer"):
        load(constants=constants)


@pytest.mark.parametrize(("name", "kind"), [("planes", np.int8), ("scales", np.float64)])
def test_a_tensor_of_the_wrong_type_is_refused(name, kind):
    tensors = {"planes": GOOD.planes, "scales": GOOD.scales, name: getattr(GOOD, name).astype(kind)}
    problem = Problem(GOOD.x, tensors["planes"], tensors["scales"], 64, 8, 32)
    with pytest.raises(Exception, match=rf"{name}.*proj"):
        load(problem)


@pytest.mark.parametrize("scale_type", [np.float16, np.float32, np.uint8])
def test_bfloat16_on_a_cpu_is_refused_with_the_way_out(scale_type):
    problem = make_problem(K=64, N=8, group_size=32, x_type=ml_dtypes.bfloat16, scale_type=scale_type)
    assert_refused(["X: expected float32 or float16, got bfloat16", "use the CUDA provider, or a model of"], problem)


@pytest.mark.parametrize("shape", [(2, 63), (65,), (2, 0)])
def test_activations_of_the_wrong_width_are_refused(shape):
    session = load(x_dims=[f"d{i}" for i in range(len(shape))])
    with pytest.raises(Exception, match=r"node 'proj': X: expected shape \[.., 64\], got \[") as caught:
        session.run(None, {"X": np.zeros(shape, np.float32)})
    assert str(list(shape)) in str(caught.value)


def test_activations_without_dimensions_are_refused():
    session = load(x_dims=[])
    with pytest.raises(Exception, match=r"node 'proj': X: expected shape \[.., 64\], got \[\]"):
        session.run(None, {"X": np.array(1, np.float32)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernel": "table9"}, "kernel 'table9' is unknown; available: "),
        ({"group_size": 33}, "group_size: expected a positive multiple of 32, got 33"),
        ({"layout": 7}, "layout: expected one of 1 (plain)"),
        ({"accuracy_level": 1}, "accuracy_level: expected 0 or 4, got 1"),
        ({"K": 32}, "planes: expected 64 bytes, got 128"),
        ({"scales": GOOD.scales[:, :, :1]}, "scales: expected 64 bytes, got 32"),
        (
            {"scales": GOOD.scales.astype(np.float64)},
            "scale_type: expected type 0 (float32), 1 (float16), 2 (uint8) or 3 (bfloat16)",
        ),
        ({"scales": np.zeros((2, 8, 2), np.uint8)}, "scales: expected 64 bytes, got 32"),
        ({"planes": np.repeat(GOOD.planes, 5, axis=0)}, "number of planes: expected 1 to 8, got 10"),
    ],
)
def test_the_c_api_refuses_a_wrong_weight(changes, message):
    settings = {"planes": GOOD.planes, "scales": GOOD.scales, "K": 64, "group_size": 32, **changes}
    with pytest.raises(InputError) as caught:
        Weight(**settings)
    assert message in str(caught.value)


def test_activations_of_bytes_are_refused():
    message = r"type: expected type 0 \(float32\) or 1 \(float16\), got 2"
    with Weight(GOOD.planes, GOOD.scales, K=64, group_size=32) as weight, pytest.raises(InputError, match=message):
        weight.multiply(np.zeros((1, 64)).astype("uint8"))


@each([name for name, level in LEVELS.items() if level == 4])
def test_a_kernel_too_coarse_for_the_level_is_refused(kernel):
    with pytest.raises(InputError, match=f"kernel {kernel} serves accuracy_level 4 and up, asked for 0"):
        Weight(GOOD.planes, GOOD.scales, K=64, group_size=32, accuracy_level=0, kernel=kernel)


def test_the_c_api_refuses_null_pointers_and_impossible_rows():
    library = ctypes.CDLL(str(library_path()))
    for name in ("weight_create", "multiply", "describe"):
        getattr(library, f"dualbinary_{name}").restype = ctypes.c_char_p
    zero = ctypes.c_size_t(0)
    assert library.dualbinary_weight_create(None, None, zero, None, zero, None, None) == b"spec is NULL"
    assert library.dualbinary_describe(None) == b"json is NULL"
    rows = ctypes.c_int64(1)
    assert library.dualbinary_multiply(None, None, 0, rows, None, None, None) == b"weight is NULL"
    spec, weight = (
        Spec(K=64, N=8, group_size=32, planes=2, scale_rows=2, layout=1, scale_outputs=8, scale_type=1),
        ctypes.c_void_p(),
    )
    tensors = [
        argument
        for array in (GOOD.planes, GOOD.scales)
        for argument in (ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes))
    ]
    assert library.dualbinary_weight_create(ctypes.byref(spec), *tensors, None, ctypes.byref(weight)) is None
    assert library.dualbinary_multiply(weight, None, 0, rows, None, None, None) == b"x or y is NULL"
    most = (2**63 - 1) // 4 // 64  # of rows of 64 float32 that memory can hold
    for wrong in (-1, most + 1, 2**63 - 1, -(2**63)):
        message = library.dualbinary_multiply(weight, None, 0, ctypes.c_int64(wrong), None, None, None)
        assert message == b"rows: expected 0 to %d, got %d" % (most, wrong)
    library.dualbinary_weight_destroy(weight)
