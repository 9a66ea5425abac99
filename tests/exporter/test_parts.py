"""Vocabulary tables and the fallback function on their own."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from dualbinary import OP, dual_binary_matmul, pack_planes
from dualbinary.contract.scale_codes import round_scales
from exporter.graph.fallback_function import fallback_function
from exporter.graph.passes.vocabulary import Table
from exporter.stored.vocabulary_tables import dequantized_table, quantized_table

ROWS = 5


class _Weights:
    """What quantized_table asks of Weights, over one tensor."""

    def __init__(self, tensor):
        self._tensor = tensor

    def read_rows(self, parameter, step, dtype):
        assert step > 0
        for rows in self._tensor.split(2):  # two at a time, so that a table is made of several parts
            yield rows.to(dtype)


def _table(bits, rows, width, block_size):
    def value(name, shape, dtype):
        return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))

    blocks = width // block_size
    codes = value("codes", [rows, blocks, block_size // 2], ir.DataType.UINT8)
    scales = value("scales", [rows, blocks, 1], ir.DataType.FLOAT16)
    return Table("t", bits, block_size, (codes,) * {4: 1, 8: 2}[bits], scales)


@given(
    bits=st.sampled_from([4, 8]),
    block_size=st.sampled_from([16, 32, 64]),
    blocks=st.integers(1, 3),
    exponent=st.integers(-3, 3),
    seed=st.integers(0, 99),
)
def test_table_is_within_half_a_step(bits, block_size, blocks, exponent, seed):
    rng = np.random.default_rng(seed)
    original = (rng.normal(size=(ROWS, blocks * block_size)) * 10.0**exponent).astype(np.float32)
    table = _table(bits, ROWS, blocks * block_size, block_size)

    arrays = quantized_table(table, _Weights(torch.from_numpy(original)))
    restored = dequantized_table(table, arrays)

    largest = np.abs(original.reshape(ROWS, blocks, block_size)).max(axis=2, keepdims=True)
    step = largest / {4: 7, 8: 119}[bits]
    # Half a step of rounding, and float16 scales are off by up to 2^-11, which the largest code multiplies.
    bound = step * (0.5 + {4: 7, 8: 119}[bits] * 2.0**-11) * 1.001
    error = np.abs(restored - original).reshape(ROWS, blocks, block_size)
    assert (error <= bound).all()


def test_table_of_zeros_stays_zero():
    table = _table(8, ROWS, 32, 16)

    arrays = quantized_table(table, _Weights(torch.zeros(ROWS, 32)))

    assert (dequantized_table(table, arrays) == 0).all()


@pytest.mark.parametrize("kind", ["ort4", "ort2", "standard"])
@pytest.mark.parametrize(("planes", "offset"), [(1, False), (2, False), (2, True), (3, True), (8, False)])
@pytest.mark.parametrize(("group_size", "k"), [(32, 96), (64, 160), (96, 250), (128, 128), (160, 160), (512, 600)])
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
    function = ir.to_proto(fallback_function(kind, planes, offset, scales.dtype, {group_size}, opset=21))

    y = _run(function, x, packed, scales, K=k, N=n, group_size=group_size)

    expected = dual_binary_matmul(x, packed, scales, K=k, N=n, group_size=group_size)
    # Sums of K terms in float32, or in float16 where the runtime multiplies so: K * eps is the worst case, its square
    # root the usual one. The planes' sums are each rounded to the type of X once more.
    tolerance = 4 * np.sqrt(k * planes) * float(np.finfo(dtype).eps)
    assert np.linalg.norm(y - expected) <= tolerance * np.linalg.norm(expected)


@pytest.mark.parametrize("kind", ["ort4", "ort2", "standard"])
def test_fallback_function_decodes_every_factor_and_every_code(kind):
    factors = np.arange(2**16, dtype="<u2").view(np.float16)
    factors = factors[np.isfinite(factors)]
    codes = (np.arange(len(factors)) * 37 % 256).astype(np.uint8)  # neighbors differ, each beside many factors
    scales = np.concatenate([factors.view(np.uint8).reshape(-1, 2), codes[:, None]], axis=1)[None]
    packed = np.full((1, len(factors), 4), [1, 0, 0, 0], np.uint8)  # the first input alone
    function = ir.to_proto(fallback_function(kind, 1, False, scales.dtype, {32}, opset=21))

    y = _run(function, np.eye(1, 32, dtype=np.float32), packed, scales, K=32, N=len(factors), group_size=32)

    np.testing.assert_array_equal(y[0], factors.astype(np.float64) * (codes.astype(np.float64) - 128) / 128)


def _run(function, x, planes, scales, **attributes):
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
