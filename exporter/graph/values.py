"""Values of the graph: helpers that the passes share."""

import numpy as np
import onnx_ir as ir

__all__ = ["NodeBuilder", "constant", "copy_type", "is_parameter", "parameter", "replace_value", "static_shape"]


def parameter(model: ir.Model, name: str, shape: list[int], dtype: ir.DataType) -> ir.Value:
    """A new initializer that waits for its data."""
    value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
    model.graph.initializers[name] = value
    return value


def is_parameter(value: ir.Value | None) -> bool:
    """Tell if `value` is an initializer that waits for its data."""
    return value is not None and value.is_initializer() and value.const_value is None


def constant(model: ir.Model, name: str, array: np.ndarray) -> ir.Value:
    """The initializer `name` with the given content, which an existing one of that name has already."""
    initializers = model.graph.initializers
    if name not in initializers:
        tensor = ir.tensor(array, name=name)
        initializers[name] = ir.Value(
            name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor
        )
    assert static_shape(initializers[name]) == array.shape, name
    return initializers[name]


def static_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """The shape as numbers; None where it is unknown or has symbols."""
    if value is None or value.shape is None or not value.shape.is_static():
        return None
    return tuple(int(size) for size in value.shape.numpy())


def copy_type(source: ir.Value, target: ir.Value, last: int | None = None) -> None:
    """Give `target` the element type and shape of `source`, with `last` as last dimension where it is given."""
    target.type = source.type
    if source.shape is not None:
        target.shape = ir.Shape([*source.shape[:-1], last]) if last is not None else ir.Shape(list(source.shape))


def replace_value(model: ir.Model, old: ir.Value, new: ir.Value) -> None:
    """Let `new` take the place and, where it is an output of the graph, the name of `old`; remove the node of `old`."""
    copy_type(old, new)
    node = old.producer()
    assert node is not None
    name = old.name
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    if new.is_graph_output():
        old.name, new.name = None, name
    model.graph.remove(node, safe=True)


class NodeBuilder:
    """Places nodes before another one and names them after a prefix."""

    def __init__(self, model: ir.Model, before: ir.Node, prefix: str) -> None:
        self._model, self._before, self._prefix, self._count = model, before, prefix, 0

    def __call__(self, op: str, *inputs: ir.Value | None, domain: str = "", **attributes: int | list[int]) -> ir.Value:
        """The only output of a new node."""
        node = ir.node(op, inputs, attributes, domain=domain, name=f"{self._prefix}.{op}_{self._count}")
        node.outputs[0].name = f"{node.name}.output"
        self._count += 1
        self._model.graph.insert_before(self._before, node)
        if domain:
            self._model.graph.opset_imports.setdefault(domain, 1)
        return node.outputs[0]

    def cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """`value` in `dtype`."""
        if value.dtype == dtype:
            return value
        result = self("Cast", value, to=int(dtype))
        result.dtype = dtype
        return result

    def constant(self, name: str, array: np.ndarray) -> ir.Value:
        """An initializer named after the prefix."""
        return constant(self._model, f"{self._prefix}.{name}", array)
