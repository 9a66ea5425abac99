"""SignedHadamard nodes of an export: their functions, and the standard operators in their place."""

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from dualbinary import HADAMARD, InputError, signed_hadamard
from exporter.graph.cuda_support import copies_and_gaps
from exporter.graph.signed_hadamard import hadamard_function, settle_hadamards
from exporter.graph.signed_hadamard import signed_hadamard as place
from exporter.graph.values import NodeBuilder, constant, copy_type, replace_value
from tests.support.hadamards import (
    FLOAT16_ROUNDING,
    FLOAT32_ROUNDING,
    Case,
    assert_within,
    cases,
    make_case,
)
from tests.support.sessions import open_session

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
    """Assert that y is the transform but for roundings.

    A product sums as many terms as its matrix has rows, one matrix of up to 64 or two, each of up to the square root of
    twice the block size; each sum may round with each term. The factor, the product with it and that with the signs are
    three more. In float16 signs and factor, the product half way and the result are rounded.
    """
    size = case.block_size
    terms = size if size <= 64 else 2 * int((2 * size) ** 0.5)
    error = (terms + 3) * FLOAT32_ROUNDING * case.sums
    if case.x.dtype == np.float16:
        smallest = float(np.finfo(np.float16).smallest_subnormal)
        error = error + 4 * FLOAT16_ROUNDING * case.sums + terms * smallest
    assert_within(y, case, error)


@settings(max_examples=40)
@given(case=cases(), kind=st.sampled_from(["function", "nodes"]), opset=st.sampled_from(OPSETS))
def test_standard_operators_are_the_transform(case, kind, opset):
    assert_close(run(graph_of(case, kind, opset), case.x), case)


@pytest.mark.parametrize("kind", ["function", "nodes"])
def test_transforms_of_one_model_have_functions_of_their_own(kind):
    first, other = make_case((3,), 256, 64), make_case((3,), 256, 256)
    chain = [first, replace(other, inverse=1), replace(first, inverse=1), first]
    model = graph_of_all(first.x, chain, kind)

    functions = [f.domain for f in model.functions.values() if f.name == HADAMARD.name]
    assert functions == ([] if kind == "nodes" else list(HADAMARD.domain_names[:3]))
    assert any(domain in model.graph.opset_imports for domain in HADAMARD.domain_names) == (kind == "function")
    expected = first.x.astype(np.float64)
    for case in chain:
        expected = signed_hadamard(expected, case.signs, case.block_size, bool(case.inverse))
    np.testing.assert_allclose(run(model, first.x), expected, atol=1e-4)  # transforms of the wrong kind differ by 1


def test_the_library_takes_the_place_of_the_function():
    case = make_case((3,), 256, 64)
    proto = ir.to_proto(graph_of(case, "function"))
    (function,) = proto.functions
    del function.node[:]  # what it would compute
    function.node.append(helper.make_node("Identity", ["X"], ["Y"]))
    assert_close(np.asarray(open_session(proto).run(None, {"X": case.x})[0]), case)


def test_nodes_have_a_domain_where_a_pass_that_removed_all_products_forgot_it():
    case = make_case((3,), 256, 64)
    model = graph_of(case, "none")
    del model.graph.opset_imports[HADAMARD.domain]
    settle_hadamards(model, "nodes")
    assert_close(run(model, case.x), case)


def test_without_a_fallback_nodes_stay_and_have_no_function():
    model = graph_of(make_case(), "none")
    assert not model.functions
    assert [node.op_type for node in model.graph] == [HADAMARD.name]


def test_more_transforms_than_domains_are_refused():
    x = np.zeros((1, 1 << 15), np.float32)
    kinds = [(1 << log, inverse) for log in range(1, 10) for inverse in (0, 1)]
    chain = [Case(x, np.ones(1 << 15, np.int8), size, inverse) for size, inverse in kinds]
    graph_of_all(x, chain[:16], "function")
    with pytest.raises(InputError, match=r"in 18 ways, and has room for 16 .*SignedHadamard; use --fallback none"):
        graph_of_all(x, chain, "function")


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("block_size", [64, 1024])
def test_nodes_in_its_place_run_on_cuda_devices_without_a_copy(block_size, dtype):
    case = make_case((2, 3), 2048, block_size, dtype=dtype)
    assert copies_and_gaps(graph_of(case, "nodes")) == []
    assert copies_and_gaps(graph_of(case, "none")) == ["SignedHadamard: no CUDA kernel is known"]


@pytest.mark.parametrize("block_size", [64, 1024, 32768])
def test_constants_of_a_function_are_small(block_size):
    function = hadamard_function(block_size, 0, 23)
    constants = [node.attributes["value"].as_tensor().nbytes for node in function if node.op_type == "Constant"]
    assert sum(constants) < 3 * block_size + 4096
