"""Logits of the last token alone.

Continuing a prompt takes the logits of its last token. Those of the other tokens take a third of a prompt's time on a
small model, and V floats per token. The output has the static shape [batch, 1, V], by which onnxruntime-genai
recognizes such a model.
"""

import numpy as np
import onnx_ir as ir

from exporter.graph.values import NodeBuilder

__all__ = ["LastLogitsPass"]

_RANK = 3  # [batch, sequence, hidden]
_TO_END = np.iinfo(np.int64).max


class LastLogitsPass(ir.passes.InPlacePass):
    """See the module's docstring. A model without a head, or with one on flattened positions, stays as it is."""

    def __init__(self, head: ir.Node | None) -> None:
        """`head` is the product with the vocabulary's table."""
        super().__init__()
        self._head = head

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass."""
        hidden = self._head.inputs[0] if self._head is not None else None
        if self._head is None or hidden is None or hidden.shape is None or hidden.shape.rank() != _RANK:
            return ir.passes.PassResult(model, modified=False)
        build = NodeBuilder(model, self._head, "last_logits")
        bounds = {"begin": -1, "end": _TO_END, "axis": 1}
        last = build("Slice", hidden, *(build.constant(k, np.array([v], np.int64)) for k, v in bounds.items()))
        last.type, last.shape = hidden.type, _one_position(hidden.shape)
        self._head.replace_input_with(0, last)
        _follow(self._head.outputs[0])
        return ir.passes.PassResult(model, modified=True)


def _one_position(shape: ir.Shape) -> ir.Shape:
    return ir.Shape([shape[0], 1, shape[2]])


def _follow(value: ir.Value) -> None:
    """Give the product and the elementwise steps between it and the graph's output the new shape."""
    if value.shape is not None and value.shape.rank() == _RANK:
        value.shape = _one_position(value.shape)
    for node, _ in value.uses():
        for output in node.outputs:
            _follow(output)
