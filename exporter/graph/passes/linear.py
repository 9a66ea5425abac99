"""Linear layers of the decoder become DualBinaryMatMul nodes.

1. Layers of one module that read the same value and have the same format (q/k/v, gate/up) become one node whose outputs
   a Split hands out: the kernel then prepares its activation tables once, and one long matrix keeps threads busier than
   three short ones. Where each of them has one step for all outputs, every output of the node has its own.
2. Every other layer becomes a node of its own.
3. A layer whose planes multiply a rotated X reads a SignedHadamard node, which it shares with all layers of the same X
   and rotation, whether or not they are one node with it.
4. A layer whose planes have their inputs in another order than X, or than the rotated X, reads a Gather of it.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from dualbinary import OP
from dualbinary.contract.weight import PlaneFormat
from exporter.graph.export_graph import PlaneNode
from exporter.graph.layers import Linear
from exporter.graph.operator_node import operator_attributes, plane_parameters
from exporter.graph.rotations import Rotations
from exporter.graph.values import NodeBuilder, constant, copy_type, replace_value

__all__ = ["DualBinaryLinearPass"]


class DualBinaryLinearPass(ir.passes.InPlacePass):
    """See the module's docstring. After the run, `nodes` lists the new nodes."""

    def __init__(
        self,
        formats: Mapping[Linear, PlaneFormat],
        orders: Mapping[Linear, np.ndarray],
        rotations: Rotations,
        accuracy_level: int,
    ) -> None:
        """Replace the layers of `formats`, which gives the format of each.

        `orders` has the input orders of some, `rotations` those of some or none.
        """
        super().__init__()
        self._formats = formats
        self._orders = orders
        self._rotations = rotations
        self._accuracy_level = accuracy_level
        self.nodes: list[PlaneNode] = []

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass."""
        groups: dict[tuple[object, ...], list[Linear]] = {}
        for linear, plane_format in self._formats.items():
            parent = linear.module.rpartition(".")[0]
            order = self._orders[linear].tobytes() if linear in self._orders else b""
            rotation = self._rotations.get(linear.parameter)
            groups.setdefault((linear.matmul.inputs[0], parent, plane_format, order, rotation), []).append(linear)
        for linears in groups.values():
            self._replace(model, linears)
        if self._formats:
            model.graph.opset_imports[OP.domain] = max(form.version for form in self._formats.values())
        return ir.passes.PassResult(model, modified=bool(self._formats))

    def _replace(self, model: ir.Model, linears: list[Linear]) -> None:
        first, plane_format = linears[0], self._formats[linears[0]]
        if len(linears) > 1:
            plane_format = replace(plane_format, per_tensor=False)
        K, N = first.K, sum(linear.N for linear in linears)
        parent = first.module.rpartition(".")[0]
        leaves = "_".join(linear.module.rpartition(".")[2] for linear in linears)
        name = f"{parent}.{leaves}" if parent else leaves
        planes, scales = plane_parameters(model, name, plane_format, N, K)
        attributes = operator_attributes(plane_format, N, K, self._accuracy_level)
        x, order = first.matmul.inputs[0], self._orders.get(first)
        assert x is not None
        x = self._rotations.rotated(model, first.matmul, x, first.parameter)
        if order is not None:
            build = NodeBuilder(model, first.matmul, name)
            reordered = build("Gather", x, build.constant("input_order", order), axis=-1)
            copy_type(x, reordered)
            x = reordered
        node = ir.node(OP.name, [x, planes, scales], attributes, domain=OP.domain, name=name)
        product = node.outputs[0]
        product.name = f"{name}.output"
        copy_type(first.matmul.outputs[0], product, last=N)
        new, outputs = [node], [product]
        if len(linears) > 1:
            split = _split(model, product, [linear.N for linear in linears], name)
            new.append(split)
            outputs = list(split.outputs)
        # Merged layers follow one another; the first is where all of them have their input.
        model.graph.insert_before(first.matmul, new)
        for linear, output in zip(linears, outputs, strict=True):
            replace_value(model, linear.matmul.outputs[0], output)
        rotation = self._rotations.get(first.parameter)
        self.nodes.append(PlaneNode(tuple(linears), plane_format, planes, scales, None, order, rotation))


def _split(model: ir.Model, value: ir.Value, sizes: list[int], name: str) -> ir.Node:
    lengths = constant(model, f"{name}.split_sizes", np.array(sizes, np.int64))
    split = ir.node("Split", [value, lengths], {"axis": -1}, num_outputs=len(sizes), name=f"{name}.split")
    for index, output in enumerate(split.outputs):
        output.name = f"{name}.split_{index}"
    return split
