"""A graph as producers and users of values, and walks along it that stop where a value has other users."""

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import onnx
from onnx import numpy_helper

from dualbinary.contract.schema import OP

__all__ = ["Chains", "attribute"]

_ONNX = ("", "ai.onnx")


def attribute(node: onnx.NodeProto, name: str, default: float) -> float:
    """A number that the node has as attribute."""
    for each in node.attribute:
        if each.name == name:
            return each.f if each.type == onnx.AttributeProto.FLOAT else each.i
    return default


class Chains:
    """The nodes of a graph by the values that they give and read."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        """Look at all nodes once; the graph must not change afterwards."""
        self.inputs = {value.name: value.type.tensor_type for value in graph.input}
        self.initializers = {tensor.name: tensor for tensor in graph.initializer}
        self._producers = {name: node for node in graph.node for name in node.output if name}
        self._users: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in _reads(node):
                self._users[name].append(node)
        self._outputs = {value.name for value in graph.output}

    def producer(self, name: str, *operators: str, domains: Iterable[str] = _ONNX) -> onnx.NodeProto | None:
        """The node that gives the value, if it is one of these operators."""
        node = self._producers.get(name)
        if node is None or node.op_type not in operators or node.domain not in domains:
            return None
        return node

    def product(self, name: str) -> onnx.NodeProto | None:
        """The DualBinaryMatMul node that gives the value."""
        return self.producer(name, OP.name, domains=OP.domain_names)

    def only_user(self, name: str) -> onnx.NodeProto | None:
        """The node that reads the value, where there is one alone, it reads it once, and nobody else sees it."""
        users = self._users.get(name, [])
        return users[0] if len(users) == 1 and name not in self._outputs else None

    def is_private(self, names: Iterable[str], users: Iterable[onnx.NodeProto]) -> bool:
        """Tell if nobody but `users` reads these values."""
        known = {id(node) for node in users}
        return all(
            name not in self._outputs and all(id(node) in known for node in self._users.get(name, [])) for name in names
        )

    def is_unused(self, name: str) -> bool:
        """Tell if nobody reads the value."""
        return not name or (name not in self._outputs and not self._users.get(name))

    def array(self, name: str) -> np.ndarray | None:
        """The constant of that name, an initializer or of a node, if its bytes are in the graph."""
        tensor = self.initializers.get(name)
        if (node := self.producer(name, "Constant")) is not None:
            tensor = next((each.t for each in node.attribute if each.name == "value"), None)
        if tensor is None or tensor.data_location == onnx.TensorProto.EXTERNAL:
            return None
        return numpy_helper.to_array(tensor)


def _reads(node: onnx.NodeProto) -> list[str]:
    """The values that a node reads, those of its subgraphs too."""
    names = [name for name in node.input if name]
    for each in node.attribute:
        for graph in (each.g, *each.graphs):
            names += [name for inner in graph.node for name in _reads(inner)]
            names += [value.name for value in graph.output]
    return names
