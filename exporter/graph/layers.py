"""Layers that the passes look for: the linear ones, and the two whose tables are as long as the vocabulary."""

from dataclasses import dataclass

import onnx_ir as ir

from exporter.graph.values import is_parameter, static_shape

__all__ = ["Linear", "find_embeddings", "find_head", "find_linears"]

_ELEMENTWISE = ("Add", "Cast", "Div", "Mul", "Tanh", "Identity")


@dataclass(frozen=True)
class Linear:
    """A linear layer [N, K] of the graph: `parameter` is the name of its weight, `matmul` its node."""

    parameter: str
    weight: ir.Value
    matmul: ir.Node
    N: int
    K: int

    @property
    def module(self) -> str:
        """The parameter's name without ".weight"."""
        return self.parameter.removesuffix(".weight")


def find_linears(model: ir.Model) -> list[Linear]:
    """All MatMul(x, Transpose(weight)), as the builder writes linear layers, whose weight is a parameter."""
    found = []
    for node in model.graph:
        if node.op_type != "MatMul" or node.domain not in ("", "ai.onnx"):
            continue
        transpose = node.inputs[1].producer() if node.inputs[1] is not None else None
        weight = transpose.inputs[0] if transpose is not None and transpose.op_type == "Transpose" else None
        shape = static_shape(weight)
        if weight is not None and is_parameter(weight) and shape is not None and len(shape) == 2:
            found.append(Linear(str(weight.name), weight, node, N=shape[0], K=shape[1]))
    return found


def find_embeddings(model: ir.Model) -> list[ir.Node]:
    """The Gathers that look tokens up: in the token embedding, then in a table of inputs of every layer."""
    return [
        node
        for node in model.graph
        if node.op_type == "Gather"
        and node.inputs[1] is not None
        and node.inputs[1].name == "input_ids"
        and is_parameter(node.inputs[0])
    ]


def find_head(model: ir.Model, linears: list[Linear]) -> Linear | None:
    """The layer whose product becomes the logits, with nothing but elementwise steps between, or None."""
    by_node = {linear.matmul: linear for linear in linears}
    value: ir.Value | None = next(v for v in model.graph.outputs if v.name == "logits")
    while value is not None and (node := value.producer()) is not None:
        if node in by_node:
            return by_node[node]
        if node.op_type not in _ELEMENTWISE:
            return None
        value = next((v for v in node.inputs if v is not None and v.producer() is not None), None)
    return None
