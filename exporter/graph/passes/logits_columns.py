"""The columns of input_ids that logits are computed for: all, that of the last token, or those of a few.

Tokens that were moved together (exporter/graph/token_rows.py) are read where they are now, so that logits stand in the
columns of input_ids. Continuing a prompt takes the logits of its last token. Those of the other tokens take a third of
a prompt's time on a small model, and V floats per token. Padding does not count as a token, on whichever side it is.
The output for the last token has the static shape [batch, 1, V], by which onnxruntime-genai recognizes such a model.

Speculative decoding feeds a few guessed tokens and has to know what follows each of them. For that there is a second
output, `verify_logits` [batch, n, V]: n is the number of new tokens where that is at most `verify`, and 1 otherwise,
for the last. The product with the table is one for both outputs; `logits` is a copy of its last row.
"""

import numpy as np
import onnx_ir as ir

from dualbinary import InputError
from dualbinary.files.model_files import VERIFY_LOGITS
from exporter.graph.token_rows import TokenRows, column_offsets, last_token_column
from exporter.graph.values import NodeBuilder, constant, copy_type

__all__ = ["LogitsColumnsPass"]

_RANK = 3  # [batch, sequence, hidden]
_VERIFIED = "verified_len"  # the symbol of n


class LogitsColumnsPass(ir.passes.InPlacePass):
    """See the module's docstring."""

    def __init__(self, head: ir.Node | None, rows: TokenRows | None, *, last: bool, verify: int = 0) -> None:
        """`head` is the product with the vocabulary's table; `rows` is None where no token was moved.

        `verify` tokens at most are those of the second output, which `last` alone has; 0: there is none.
        """
        super().__init__()
        self._head, self._rows, self._last, self._verify = head, rows, last, verify if last else 0

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
            positions = _VERIFIED if self._verify else 1
            chosen.shape = ir.Shape([hidden.shape[0], positions, hidden.shape[2]])
            _follow(self._head.outputs[0], positions)
        if self._verify:
            _split_off_last(model)
        return ir.passes.PassResult(model, modified=True)

    def _columns(self, model: ir.Model, build: NodeBuilder) -> ir.Value:
        """The columns [batch, n] of the hidden states."""
        if self._rows is not None and not self._last:
            return self._rows.place
        zero, one = (build.constant(name, np.array([n], np.int64)) for name, n in (("zero", 0), ("one", 1)))
        last = last_token_column(model, build) if self._rows is None else build("Sub", self._rows.count, one)
        if self._verify:
            last = build("Add", last, self._back(model, build, one))
        return build("Max", last, zero)

    def _back(self, model: ir.Model, build: NodeBuilder, one: ir.Value) -> ir.Value:
        """The n columns of the second output, counted from the last token: 1 - n to 0."""
        ids = next(value for value in model.graph.inputs if value.name == "input_ids")
        new = build("Shape", ids, start=1, end=2)
        few = build("LessOrEqual", new, build.constant("verify", np.array([self._verify], np.int64)))
        n = build("Where", few, new, one)
        unit = build.constant("unit", np.array(1, np.int64))
        return build("Range", build("Squeeze", build("Sub", one, n)), unit, unit)


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


def _follow(value: ir.Value, positions: int | str) -> None:
    """Give the product and the elementwise steps between it and the graph's output the new number of positions."""
    if value.shape is not None and value.shape.rank() == _RANK:
        value.shape = ir.Shape([value.shape[0], positions, value.shape[2]])
    for node, _ in value.uses():
        for output in node.outputs:
            _follow(output, positions)


def _split_off_last(model: ir.Model) -> None:
    """Make the output of logits that of a few tokens, and its last row the first output."""
    place, few = next((i, value) for i, value in enumerate(model.graph.outputs) if value.name == "logits")
    assert few.shape is not None
    few.name = VERIFY_LOGITS
    last = constant(model, "logits_columns.last", np.array([-1], np.int64))
    node = ir.node("Gather", [few, last], {"axis": 1}, name="logits_columns.last_row")
    logits = node.outputs[0]
    logits.name, logits.type, logits.shape = "logits", few.type, ir.Shape([few.shape[0], 1, few.shape[2]])
    model.graph.append(node)
    model.graph.outputs[place] = logits
    model.graph.outputs.append(few)
