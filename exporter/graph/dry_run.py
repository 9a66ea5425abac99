"""A run of the graph before any weight is read: can it run at all?

The builder takes sizes from config.json one by one, and sizes that contradict one another make a graph that ONNX
Runtime loads and cannot run. So the graph runs once for a prompt of two tokens and once for a step after it, with zeros
for weights. What that takes does not grow with the weights: they are inputs that share one buffer, which is never
written, and a product with a matrix of zeros is one with a single column of it, repeated.
"""

from math import prod

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from onnx_ir.passes.common import RemoveUnusedNodesPass

from dualbinary import InputError
from dualbinary.files.cache_names import present_name
from exporter.graph.layers import Linear, find_linears
from exporter.graph.values import NodeBuilder, parameter, replace_value

__all__ = ["refuse_what_cannot_run"]

_LENGTHS = (2, 1)  # tokens of the prompt and of the step
_INLINE_BYTES = 1 << 16  # larger constants are inputs, too: the copy of the graph stays small
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}
_SILENT = 4  # log severity: what fails becomes an exception anyway


def refuse_what_cannot_run(model: ir.Model, model_type: str) -> None:
    """Raise InputError where ONNX Runtime cannot run the graph of a `model_type` for a prompt and a step after it."""
    copy = model.clone()
    feeds = _weights_to_inputs(copy)
    options = ort.SessionOptions()
    options.log_severity_level = _SILENT
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        graph = ir.to_proto(copy).SerializeToString()
        session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        _run_prompt_and_step(session, feeds)
    except Exception as error:  # ONNX Runtime's own exceptions share no narrower base
        raise InputError(
            f"a {model_type} of this configuration is not supported: ONNX Runtime cannot run the graph that the "
            f"builder makes of it ({' '.join(str(error).split())})"
        ) from error


def _weights_to_inputs(model: ir.Model) -> dict[str, np.ndarray]:
    """Turn parameters and large constants into inputs, and return what the constants hold."""
    graph = model.graph
    for linear in find_linears(model):
        _narrow(model, linear)
    RemoveUnusedNodesPass()(model)  # transposes of the whole weights
    constants: dict[str, np.ndarray] = {}
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.nbytes > _INLINE_BYTES:
            del graph.initializers[name]
            if value.uses():
                graph.inputs.append(value)
                constants |= {name: tensor.numpy()} if tensor is not None else {}
    return constants


def _narrow(model: ir.Model, linear: Linear) -> None:
    """Let a linear layer multiply by one column of zeros, whose product stands for all N."""
    column = parameter(model, f"{linear.parameter}.column", [linear.K, 1], linear.weight.dtype or ir.DataType.FLOAT)
    row = parameter(model, f"{linear.parameter}.row", [linear.N], linear.weight.dtype or ir.DataType.FLOAT)
    build = NodeBuilder(model, linear.matmul, f"{linear.matmul.name}.narrow")
    product = build("Add", build("MatMul", linear.matmul.inputs[0], column), row)
    replace_value(model, linear.matmul.outputs[0], product)


def _run_prompt_and_step(session: ort.InferenceSession, constants: dict[str, np.ndarray]) -> None:
    inputs = [value for value in session.get_inputs() if value.name not in constants]
    fixed = {v.name: tuple(v.shape) for v in inputs if all(isinstance(size, int) for size in v.shape)}
    types = {v.name: np.dtype(_TYPES[v.type]) for v in inputs}
    zeros = np.zeros(max((prod(shape) * types[name].itemsize for name, shape in fixed.items()), default=0), np.uint8)

    def weight(name: str) -> np.ndarray:
        size = prod(fixed[name]) * types[name].itemsize
        return zeros[:size].view(types[name]).reshape(fixed[name])

    weights = {name: weight(name) for name in fixed} | constants
    presents = {v.name: name for v in inputs if (name := present_name(v.name)) is not None}
    past = {v.name: np.zeros(_first_shape(v.shape), types[v.name]) for v in inputs if v.name in presents}
    names = [value.name for value in session.get_outputs()]
    seen = 0
    for length in _LENGTHS:
        total = seen + length
        tokens = {
            "input_ids": np.zeros((1, length), np.int64),
            "attention_mask": np.ones((1, total), np.int64),
            "position_ids": np.arange(seen, total)[None],
        }
        given = {v.name: tokens[v.name] for v in inputs if v.name in tokens}
        outputs = dict(zip(names, session.run(None, {**weights, **given, **past}), strict=True))
        past = {name: outputs[presents[name]] for name in past}
        seen = total


def _first_shape(shape: list[int | str]) -> tuple[int, ...]:
    """The shape of what one sequence has carried before its first token: no keys and values, states of full size."""
    return (1, *(size if isinstance(size, int) else 0 for size in shape[1:]))
