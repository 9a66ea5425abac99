"""Attention in float16 inside a float32 model: ONNX Runtime's CUDA kernel of GroupQueryAttention has no other float.

For every GroupQueryAttention whose query is float32:

1. Queries, keys, values, tables of the rotation and bias are cast to float16, and the output is cast back.
2. The cache, which only this node touches, is float16: inputs and outputs of the graph change their type, and a token
   takes half the memory.

Everything between two attentions keeps float32.
"""

import onnx_ir as ir

from exporter.graph.values import NodeBuilder, copy_type

__all__ = ["AttentionF16Pass"]

_FLOATS = (0, 1, 2, 7, 8, 10)  # query, key, value, cos_cache, sin_cache, attention_bias
_CACHE = ((3, 1), (4, 2))  # past_key to present_key, past_value to present_value


class AttentionF16Pass(ir.passes.InPlacePass):
    """See the module's docstring."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass."""
        modified = False
        values_f16: dict[ir.Value, ir.Value] = {}  # of the tables, which all layers share
        for node in list(model.graph):
            query = node.inputs[0] if node.inputs else None
            if node.op_type == "GroupQueryAttention" and query is not None and query.dtype == ir.DataType.FLOAT:
                _convert(model, node, values_f16)
                modified = True
        return ir.passes.PassResult(model, modified)


def _convert(model: ir.Model, node: ir.Node, values_f16: dict[ir.Value, ir.Value]) -> None:
    build = NodeBuilder(model, node, f"{node.name}.half")
    for index in _FLOATS:
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is None:
            continue
        if value not in values_f16:
            values_f16[value] = build.cast(value, ir.DataType.FLOAT16)
            values_f16[value].shape = value.shape
        node.replace_input_with(index, values_f16[value])
    for past, present in _CACHE:
        for value in (node.inputs[past], node.outputs[present]):
            assert value is not None
            value.type = ir.TensorType(ir.DataType.FLOAT16)
    output = node.outputs[0]
    uses = list(output.uses())
    wide = ir.node("Cast", [output], {"to": int(ir.DataType.FLOAT)}, name=f"{node.name}.wide")
    copy_type(output, wide.outputs[0])
    output.type = ir.TensorType(ir.DataType.FLOAT16)
    model.graph.insert_after(node, wide)
    for user, index in uses:
        user.replace_input_with(index, wide.outputs[0])
