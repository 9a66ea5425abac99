"""The type of keys and values, where it is another one than that of the activations.

For every GroupQueryAttention that reads a cache of the graph:

1. Inputs and outputs of the graph change their type: float16 [.., D], or int8 [.., D + 4], of which each row has D
   numbers and their factor (decision 0027).
2. Nodes in front of the attention node and behind it change it back: Cast, or functions of standard operators.

Where attention becomes a block, these nodes become part of it, and its kernel reads and writes the cache as it is.
"""

import onnx_ir as ir

from dualbinary import ATTENTION, OP
from dualbinary.onnx_files.int8_rows import FROM_INT8, TO_INT8, rows_from_int8, rows_to_int8

__all__ = ["CacheTypePass"]

_CACHE = ((3, 1), (4, 2))  # past_key to present_key, past_value to present_value
_TYPES = {"fp16": ir.DataType.FLOAT16, "int8": ir.DataType.INT8}


class CacheTypePass(ir.passes.InPlacePass):
    """See the module's docstring."""

    def __init__(self, kind: str) -> None:
        """`kind` is "fp16" or "int8"."""
        super().__init__()
        self._in_int8 = kind == "int8"
        self._type = _TYPES[kind]

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass. Attention nodes that share a cache with others, or grow it otherwise, stay as they are."""
        nodes = [node for node in model.graph if node.op_type == "GroupQueryAttention"]
        pairs = [(node, *pair) for node in nodes for pair in _CACHE if len(node.outputs) > pair[1]]
        converted = [self._convert(model, *pair) for pair in pairs if _owns_cache(*pair)]
        if self._in_int8 and converted:
            imports = model.graph.opset_imports
            imports.setdefault(OP.domain, 1)
            for make in (rows_from_int8, rows_to_int8):
                function = ir.from_proto(make(imports[""]))
                model.functions[function.identifier()] = function
        return ir.passes.PassResult(model, modified=bool(converted))

    def _convert(self, model: ir.Model, node: ir.Node, past_index: int, present_index: int) -> ir.Node:
        past, present = node.inputs[past_index], node.outputs[present_index]
        assert past is not None and past.shape is not None and past.dtype is not None
        before = self._node([past], past.dtype, f"{node.name}.{past.name}.read")
        before.outputs[0].type, before.outputs[0].shape = past.type, ir.Shape(list(past.shape))
        model.graph.insert_before(node, before)
        node.replace_input_with(past_index, before.outputs[0])
        after = self._node([present], self._type, f"{node.name}.{past.name}.written")
        model.graph.insert_after(node, after)
        written, name = after.outputs[0], present.name
        ir.convenience.replace_all_uses_with(present, written, replace_graph_outputs=True)
        after.replace_input_with(0, present)
        present.name, written.name = f"{node.name}.{name}", name
        written.shape = None if present.shape is None else ir.Shape(list(present.shape))
        for value in (past, written):
            value.type = ir.TensorType(self._type)
            if self._in_int8 and value.shape is not None:
                *sizes, head_size = value.shape
                assert isinstance(head_size, int)
                value.shape = ir.Shape([*sizes, head_size + ATTENTION.limits["scale_bytes"]])
        return after

    def _node(self, inputs: list[ir.Value], to: ir.DataType, name: str) -> ir.Node:
        if not self._in_int8:
            return ir.node("Cast", inputs, {"to": int(to)}, name=name)
        if to == ir.DataType.INT8:
            return ir.node(TO_INT8, inputs, domain=OP.domain, name=name)
        return ir.node(FROM_INT8, inputs, {"to": int(to)}, domain=OP.domain, name=name)


def _owns_cache(node: ir.Node, past_index: int, present_index: int) -> bool:
    """Tell if the node alone makes the cache of the graph that it reads longer."""
    past, present = node.inputs[past_index], node.outputs[present_index]
    return past is not None and past.is_graph_input() and present.is_graph_output() and not present.uses()
