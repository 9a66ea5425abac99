"""Fallback functions compute the operator."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from dualbinary import OP, InputError, dual_binary_matmul, pack_planes
from dualbinary.contract.scale_codes import round_scales
from dualbinary.contract.weight import PlaneFormat
from exporter.graph.fallback_function import fallback_function


@pytest.mark.parametrize("kind", ["ort4", "ort2", "standard"])
@pytest.mark.parametrize(("planes", "offset"), [(1, False), (2, False), (2, True), (3, True), (8, False)])
@pytest.mark.parametrize(
    ("group_size", "k"), [(32, 96), (64, 160), (96, 250), (128, 128), (160, 160), (256, 300), (512, 600)]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_fallback_function_is_the_op(kind, planes, offset, group_size, k, dtype):
    assert_function_is_the_op(kind, planes, offset, group_size, k, dtype, coded=False)


@pytest.mark.parametrize("kind", ["ort4", "ort2", "standard"])
@pytest.mark.parametrize(("planes", "offset", "group_size", "k"), [(1, False, 64, 160), (2, True, 96, 250)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_fallback_function_of_coded_scales_is_the_op(kind, planes, offset, group_size, k, dtype):
    assert_function_is_the_op(kind, planes, offset, group_size, k, dtype, coded=True)


def assert_function_is_the_op(kind, planes, offset, group_size, k, dtype, *, coded):
    rng = np.random.default_rng(0)
    n = 10
    packed = pack_planes(rng.integers(0, 2, (planes, n, k)), group_size)
    values = rng.normal(size=(planes + offset, n, packed.shape[2] * 8 // group_size))
    scales = round_scales(values) if coded else values.astype(np.float16)
    x = rng.normal(size=(2, 3, k)).astype(dtype)
    plane_format = PlaneFormat(planes, group_size, offset, scale_dtype=scales.dtype)
    function = ir.to_proto(fallback_function(kind, {plane_format}, opset=21))

    y = run(function, x, packed, scales, K=k, N=n, group_size=group_size)

    expected = dual_binary_matmul(x, packed, scales, K=k, N=n, group_size=group_size)
    # Sums of K terms in float32, or in float16 where the runtime multiplies so: K * eps is the worst case, its square
    # root the usual one. The planes' sums are each rounded to the type of X once more.
    tolerance = 4 * np.sqrt(k * planes) * float(np.finfo(dtype).eps)
    assert np.linalg.norm(y - expected) <= tolerance * np.linalg.norm(expected)


@pytest.mark.parametrize("kind", ["ort4", "ort2", "standard"])
def test_fallback_function_knows_every_factor_and_every_code(kind):
    factors = np.arange(2**16, dtype="<u2").view(np.float16)
    factors = factors[np.isfinite(factors)]
    codes = (np.arange(len(factors)) * 37 % 256).astype(np.uint8)  # neighbors differ, each beside many factors
    scales = np.concatenate([factors.view(np.uint8).reshape(-1, 2), codes[:, None]], axis=1)[None]
    packed = np.full((1, len(factors), 4), [1, 0, 0, 0], np.uint8)  # the first input alone
    function = ir.to_proto(fallback_function(kind, {PlaneFormat(1, 32, scale_dtype=scales.dtype)}, opset=21))

    y = run(function, np.eye(1, 32, dtype=np.float32), packed, scales, K=32, N=len(factors), group_size=32)

    np.testing.assert_array_equal(y[0], factors.astype(np.float64) * (codes.astype(np.float64) - 128) / 128)


@pytest.mark.parametrize(("kind", "largest"), [("ort4", 256), ("ort2", 128)])
@pytest.mark.parametrize("group_size", [32, 64, 96, 128, 256, 512])
def test_quantization_blocks_have_a_size_with_a_fast_kernel(kind, largest, group_size):
    function = ir.to_proto(fallback_function(kind, {PlaneFormat(2, group_size)}, opset=21))

    products = [node for node in function.node if node.op_type == "MatMulNBits"]
    (block,) = {(a.i, a.ref_attr_name) for node in products for a in node.attribute if a.name == "block_size"}

    by_group = group_size in (32, 64, 128, 256) and group_size <= largest
    assert block == ((0, "group_size") if by_group else (32, ""))


def run(function, x, planes, scales, **attributes):
    node = helper.make_node(
        OP.name, ["X", "planes", "scales"], ["Y"], domain=OP.domain, layout=1, accuracy_level=0, **attributes
    )
    element = helper.np_dtype_to_tensor_dtype(x.dtype)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("X", element, x.shape)],
        [helper.make_tensor_value_info("Y", element, [*x.shape[:-1], attributes["N"]])],
        [numpy_helper.from_array(planes, "planes"), numpy_helper.from_array(scales, "scales")],
    )
    assert element in (TensorProto.FLOAT, TensorProto.FLOAT16)
    opsets = [helper.make_opsetid(d, v) for d, v in (("", 21), ("com.microsoft", 1), (OP.domain, OP.version))]
    model = helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"X": x})[0]).astype(np.float64)


def test_blocked_scales_of_several_types_are_refused():
    formats = {PlaneFormat(2, 32, scale_dtype=np.dtype(name), layout="avx2") for name in ("float16", "float32")}

    with pytest.raises(InputError, match="layout: expected plain for a checkpoint with scales of several types"):
        fallback_function("ort4", formats, opset=21)
