"""The opset of the model becomes the lowest that its operators need, so that older versions of ONNX Runtime load it.

The builder declares opset 24. Its operators are in opset 23 already, with the same meaning, unless

1. a TensorScatter is in the graph, or
2. an Attention node has a seventh input,

which are new in 24 and keep it. ONNX Runtime 1.23 reads opset 23 and IR version 10.
"""

import onnx_ir as ir

__all__ = ["LowerOpsetPass"]

_OPSET = 23
_IR_VERSION = 10
_ATTENTION_INPUTS = 6  # of opset 23


class LowerOpsetPass(ir.passes.InPlacePass):
    """See the module's docstring."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass."""
        if model.graph.opset_imports[""] <= _OPSET or any(_is_new(node) for node in model.graph.all_nodes()):
            return ir.passes.PassResult(model, modified=False)
        for part in (model.graph, *model.functions.values()):
            part.opset_imports[""] = _OPSET
        model.ir_version = _IR_VERSION
        return ir.passes.PassResult(model, modified=True)


def _is_new(node: ir.Node) -> bool:
    if node.domain not in ("", "ai.onnx"):
        return False
    return node.op_type == "TensorScatter" or (node.op_type == "Attention" and len(node.inputs) > _ATTENTION_INPUTS)
