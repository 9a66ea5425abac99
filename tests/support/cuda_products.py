"""bfloat16 in sessions and the largest error of any CUDA kernel: for the tests of the op for CUDA devices."""

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper

from tests.support.problems import Problem, assert_close, op_model

BFLOAT16 = ml_dtypes.bfloat16
X_TYPES = [np.float32, np.float16, BFLOAT16]

MANTISSA_ERROR = 2.0**-8
"""Rounding error of bfloat16, relative: the coarsest that a kernel may do to an input or to a weight."""


def cuda_model(problem: Problem, **options) -> onnx.ModelProto:
    """A model of one node; where X is bfloat16, which sessions do not take from NumPy, there are casts around it."""
    model = op_model(problem, **options)
    if problem.x.dtype != BFLOAT16:
        return model
    graph = model.graph
    graph.node[0].input[0], graph.node[0].output[0] = "X16", "Y16"
    graph.node.insert(0, helper.make_node("Cast", ["X"], ["X16"], to=onnx.TensorProto.BFLOAT16))
    graph.node.append(helper.make_node("Cast", ["Y16"], ["Y"], to=onnx.TensorProto.FLOAT))
    for value in (graph.input[0], graph.output[0]):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return model


def run(session: ort.InferenceSession, x: np.ndarray) -> np.ndarray:
    """Y of the type of x."""
    (y,) = session.run(None, {"X": x.astype(np.float32) if x.dtype == BFLOAT16 else x})
    return np.asarray(y).astype(x.dtype)


def assert_product(y: np.ndarray, problem: Problem) -> None:
    """Assert that y is the product, whatever the kernel; how exact each kernel is, its own tests say."""
    assert_close(y, problem, 2 * MANTISSA_ERROR * problem.terms() + problem.float_error())
