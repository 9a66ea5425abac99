"""SignedHadamard nodes of an export: their functions, and the standard operators in their place."""

from functools import partial

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dualbinary import HADAMARD, InputError, signed_hadamard
from exporter.graph.cuda_support import copies_and_gaps
from exporter.graph.signed_hadamard import settle_hadamards
from exporter.graph.signed_hadamard import signed_hadamard as place
from exporter.graph.values import NodeBuilder, constant, copy_type, replace_value
from tests.support.hadamards import Case, cases, roundings

OPSETS = (18, 23)


def graph_of(case: Case, kind, opset=23):
    """A model of one transform."""
    return graph_of_all(case.x, [case], kind, opset)


def graph_of_all(x, cases, kind, opset=23):
    """A model that transforms X by each case in turn."""
    dtype = ir.DataType.from_numpy(x.dtype)
    given = ir.Value(name="X", type=ir.TensorType(dtype), shape=ir.Shape([*map(str, range(x.ndim - 1)), x.shape[-1]]))
    end = ir.node("Identity", [given])
    end.outputs[0].name = "Y"
    copy_type(given, end.outputs[0])
    graph = ir.Graph([given], end.outputs, nodes=[end], opset_imports={"": opset}, name="g")
    model = ir.Model(graph, ir_version=10)
    build, value = NodeBuilder(model, end, "test"), given
    for index, case in enumerate(cases):
        signs = constant(model, f"S{index}", case.signs)
        value = place(build, value, signs, case.block_size, inverse=bool(case.inverse))
    replace_value(model, end.outputs[0], value)
    settle_hadamards(model, kind, dtype)
    return model


def run(model: ir.Model, x):
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"X": x})[0])


def assert_close(y, case: Case):
    """One factor or two: a product of at most `block_size` and of `left` + `right` terms, each sum of which may round
    as often as it has terms; float16 rounds the factor and the product half way, too."""
    assert y.dtype == case.x.dtype
    assert y.shape == case.x.shape
    error = np.abs(y.astype(np.float64) - case.expected)
    terms = 64 if case.block_size <= 64 else 2 * int(2 * case.block_size**0.5)
    eps = float(np.finfo(np.float32).eps) / 2 * (terms + 3)
    eps += 4 * float(np.finfo(np.float16).eps) / 2 if case.x.dtype == np.float16 else 0
    assert (error <= eps * case.sums + roundings(case.x.dtype)).all()


@settings(max_examples=40)
@given(case=cases(), kind=st.sampled_from(["function", "nodes"]), opset=st.sampled_from(OPSETS))
def test_standard_operators_are_the_transform(case, kind, opset):
    assert_close(run(graph_of(case, kind, opset), case.x), case)
