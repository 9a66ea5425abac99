"""The unpack function of blocked layouts gives planes and scales of layout plain, bit for bit."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from onnx import helper, numpy_helper

from dualbinary import OP
from dualbinary.contract.weight import PlaneWeight
from dualbinary.onnx_files.functions import constant_nodes
from dualbinary.onnx_files.unpack_function import unpack_function
from tests.support.strategies import Case, cases

BLOCKS = [layout.name for layout in OP.layouts if layout.blocks]


def unpack(layout: str, case: Case, scales: np.ndarray) -> list[np.ndarray]:
    """Planes and scales as the function gives them in ONNX Runtime."""
    weight = PlaneWeight.of(case.planes, scales, case.K, case.group_size).to_layout(layout)
    stored = unpack_function(weight.format)
    text = (
        f'<domain: "t", opset_import: ["" : 21]>\n'
        f"unpack <K, N, group_size> ({', '.join(stored.inputs)}) => (planes, scales) {{\n{stored.text}}}"
    )
    function = onnx.parser.parse_function(text)
    nodes = [*constant_nodes(stored.tables), *function.node]
    del function.node[:]
    function.node.extend(nodes)
    arrays = weight.planes, weight.scales
    node = helper.make_node(
        "unpack", ["a", "b"], ["planes", "scales"], domain="t", K=case.K, N=case.N, group_size=case.group_size
    )
    graph = helper.make_graph(
        [node],
        "g",
        [],
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(kind), ["x", "y", "z"])
            for name, kind in (("planes", np.dtype(np.uint8)), ("scales", scales.dtype))
        ],
        [numpy_helper.from_array(array, name) for name, array in zip("ab", arrays, strict=True)],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("t", 1)]
    model = helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(None, {})]


@pytest.mark.parametrize("layout", BLOCKS)
@given(case=cases())
@settings(max_examples=25)
def test_layout_plain_is_restored(layout, case):
    planes, scales = unpack(layout, case, case.scales)
    np.testing.assert_array_equal(planes, case.planes)
    assert scales.dtype == case.scales.dtype
    np.testing.assert_array_equal(scales.view(np.uint8), case.scales.view(np.uint8))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_every_kind_of_finite_float_is_restored(dtype):
    info = np.finfo(dtype)
    if dtype == np.float16:
        values = np.arange(2**16, dtype=np.uint16).view(dtype)
    else:  # every sign and exponent, with the smallest, the largest and some mantissas between
        mantissas = np.array([0, 1, 2**22, 2**23 - 1, 0x2AAAAA, 0x00FF00], np.uint32)
        values = (np.arange(512, dtype=np.uint32)[:, None] << 23 | mantissas).ravel().view(dtype)
    values = values[np.isfinite(values)]
    scales = values[None, :, None]
    planes = np.zeros((1, len(values), 4), np.uint8)
    case = Case(len(values), 32, 32, planes, planes, scales, scales, np.random.default_rng(0))
    _, restored = unpack(BLOCKS[0], case, scales)
    np.testing.assert_array_equal(restored.view(f"u{info.bits // 8}"), scales.view(f"u{info.bits // 8}"))
