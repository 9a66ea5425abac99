"""Linear layers of the decoder become DualBinaryMatMul nodes.

The builder writes a linear layer as MatMul(x, Transpose(weight)). `find_linears` lists them; `DualBinaryLinearPass`
replaces those it is given:

1. Layers of one module that read the same value (q/k/v, gate/up) become one node whose outputs a Split hands out: the
   kernel then prepares its activation tables once, and one long matrix keeps threads busier than three short ones.
2. Every other layer becomes a node of its own.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from dualbinary import OP
from dualbinary.contract.weight import PlaneFormat
from exporter.graph.values import constant, copy_type, is_parameter, parameter, replace_value, static_shape

__all__ = ["DualBinaryLinearPass", "Linear", "PlaneNode", "find_linears"]


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


@dataclass(frozen=True)
class PlaneNode:
    """A DualBinaryMatMul node and the layers whose rows its planes and scales hold, in order."""

    linears: tuple[Linear, ...]
    format: PlaneFormat
    planes: ir.Value
    scales: ir.Value


def find_linears(model: ir.Model) -> list[Linear]:
    """All MatMul(x, Transpose(weight)) whose weight is a parameter, in graph order."""
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


class DualBinaryLinearPass(ir.passes.InPlacePass):
    """See the module's docstring. After the run, `nodes` lists what was made."""

    def __init__(self, linears: Iterable[Linear], formats: Mapping[str, PlaneFormat], accuracy_level: int) -> None:
        """`formats` gives the format of each of `linears` by parameter name."""
        super().__init__()
        self._linears = list(linears)
        self._formats = formats
        self._accuracy_level = accuracy_level
        self.nodes: list[PlaneNode] = []

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass."""
        groups: dict[tuple[object, ...], list[Linear]] = {}
        for linear in self._linears:
            parent = linear.module.rpartition(".")[0]
            groups.setdefault((linear.matmul.inputs[0], parent, self._formats[linear.parameter]), []).append(linear)
        for linears in groups.values():
            self._replace(model, linears)
        if self._linears:
            model.graph.opset_imports[OP.domain] = OP.version
        return ir.passes.PassResult(model, modified=bool(self._linears))

    def _replace(self, model: ir.Model, linears: list[Linear]) -> None:
        first, plane_format = linears[0], self._formats[linears[0].parameter]
        parent = first.module.rpartition(".")[0]
        leaves = "_".join(linear.module.rpartition(".")[2] for linear in linears)
        name = f"{parent}.{leaves}" if parent else leaves
        n = sum(linear.N for linear in linears)
        planes_shape, scales_shape = plane_format.shapes(n, first.K)
        planes = parameter(model, f"{name}.planes", planes_shape, ir.DataType.UINT8)
        scales = parameter(model, f"{name}.scales", scales_shape, ir.DataType.from_numpy(plane_format.scale_dtype))
        x = first.matmul.inputs[0]
        attributes = {
            "K": first.K,
            "N": n,
            "group_size": plane_format.group_size,
            "layout": OP.layout_named(plane_format.layout).number,
            "accuracy_level": self._accuracy_level,
        }
        node = ir.node(OP.name, [x, planes, scales], attributes, domain=OP.domain, version=OP.version, name=name)
        product = node.outputs[0]
        product.name = f"{name}.output"
        copy_type(first.matmul.outputs[0], product, last=n)
        new, outputs = [node], [product]
        if len(linears) > 1:
            split = _split(model, product, [linear.N for linear in linears], name)
            new.append(split)
            outputs = list(split.outputs)
        # Merged layers follow one another; the first stands where all of them can see their input.
        model.graph.insert_before(first.matmul, new)
        for linear, output in zip(linears, outputs, strict=True):
            replace_value(model, linear.matmul.outputs[0], output)
        self.nodes.append(PlaneNode(tuple(linears), plane_format, planes, scales))


def _split(model: ir.Model, value: ir.Value, sizes: list[int], name: str) -> ir.Node:
    lengths = constant(model, f"{name}.split_sizes", np.array(sizes, np.int64))
    split = ir.node("Split", [value, lengths], {"axis": -1}, num_outputs=len(sizes), name=f"{name}.split")
    for index, output in enumerate(split.outputs):
        output.name = f"{name}.split_{index}"
    return split
