"""The columns of input_ids that logits are computed for: all, or that of the last token.

Tokens that were moved together (exporter/graph/token_rows.py) are read where they are now, so that logits stand in the
columns of input_ids. Continuing a prompt takes the logits of its last token. Those of the other tokens take a third of
a prompt's time on a small model, and V floats per token. Padding does not count as a token, on whichever side it is.
The output for the last token has the static shape [batch, 1, V], by which onnxruntime-genai recognizes such a model.
"""

import numpy as np
import onnx_ir as ir

from dualbinary import InputError
from exporter.graph.token_rows import TokenRows, column_offsets, last_token_column
from exporter.graph.values import NodeBuilder, copy_type

__all__ = ["LogitsColumnsPass"]

_RANK = 3  # [batch, sequence, hidden]


class LogitsColumnsPass(ir.passes.InPlacePass):
    """See the module's docstring."""

    def __init__(self, head: ir.Node | None, rows: TokenRows | None, *, last: bool) -> None:
        """`head` is the product with the vocabulary's table; `rows` is None where no token was moved."""
        super().__init__()
        self._head, self._rows, self._last = head, rows, last

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass. Raises InputError for a graph without a head on [batch, sequence, hidden]."""
        if not self._last and self._rows is None:
            return ir.passes.PassResult(model, modified=False)
        hidden = self._head.inputs[0] if self._head is not None else None
        if self._head is None or hidden is None or hidden.shape is None or hidden.shape.rank() != _RANK:
            raise InputError(
                "the graph's logits are not a product with a table of the vocabulary; it cannot be exported"
            )
        build = NodeBuilder(model, self._head, "logits_columns")
        chosen = _gather(build, hidden, self._columns(model, build), column_offsets(model, build))
        copy_type(hidden, chosen)
        self._head.replace_input_with(0, chosen)
        if self._last:
            chosen.shape = _one_position(hidden.shape)
            _follow(self._head.outputs[0])
        return ir.passes.PassResult(model, modified=True)

    def _columns(self, model: ir.Model, build: NodeBuilder) -> ir.Value:
        """The columns [batch, n] of the hidden states."""
        if self._rows is None:
            return last_token_column(model, build)
        if not self._last:
            return self._rows.place
        zero, one = (build.constant(name, np.array([n], np.int64)) for name, n in (("zero", 0), ("one", 1)))
        return build("Max", build("Sub", self._rows.count, one), zero)


def _gather(build: NodeBuilder, hidden: ir.Value, columns: ir.Value, offsets: ir.Value) -> ir.Value:
    """Hidden states [batch, n, hidden] of the columns [batch, n].

    By indices into all columns of all rows: CUDA's GatherND copies its strides from the host at each run, and a
    captured graph would copy from memory that is gone.
    """
    assert hidden.shape is not None
    width = hidden.shape[2]
    assert isinstance(width, int)
    flat = build("Reshape", hidden, build.constant("flat", np.array([-1, width], np.int64)))
    return build("Gather", flat, build("Add", columns, offsets))


def _one_position(shape: ir.Shape) -> ir.Shape:
    return ir.Shape([shape[0], 1, shape[2]])


def _follow(value: ir.Value) -> None:
    """Give the product and the elementwise steps between it and the graph's output the new shape."""
    if value.shape is not None and value.shape.rank() == _RANK:
        value.shape = _one_position(value.shape)
    for node, _ in value.uses():
        for output in node.outputs:
            _follow(output)
