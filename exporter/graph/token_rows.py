"""The tokens of each row of a batch, whatever padding its mask has.

transformers pads on the left, onnxruntime-genai on the right, and a conversation that goes on after a padded prompt has
holes. GroupQueryAttention knows lengths alone: the keys of a row have to lie side by side. So the new tokens of a row
are moved together before the first layer (`place`), their padding to the end, where causal attention does not see it
and the next step overwrites it. A row's position in the cache is then the number of tokens before it, as without
padding.

Two conventions of hosts are told apart by shapes alone. A cache that grows is as long as the mask without the new
tokens; a shared buffer is longer. Only for steps of static shapes is the mask as long as the cache: its ones are
counted, and nothing after the last of them (docs/howto/run_on_cuda.md).
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from exporter.graph.values import NodeBuilder

__all__ = ["TokenRows", "column_offsets", "last_token_column", "read_token_rows"]


@dataclass(frozen=True)
class TokenRows:
    """Values of the graph, int64.

    Attributes:
        lengths: [batch], tokens in the cache before this step plus S, the columns of input_ids.
        total: [1], columns of the mask.
        place: [batch, S], where each column of input_ids goes: tokens in their order, then padding.
        count: [batch, 1], columns of input_ids that are tokens.
        ones: [batch, S].
    """

    lengths: ir.Value
    total: ir.Value
    place: ir.Value
    count: ir.Value
    ones: ir.Value


def read_token_rows(model: ir.Model, first: ir.Node, past: ir.Value) -> TokenRows:
    """Place the nodes before `first`. `past` is a graph input [batch, heads, keys, head size]."""
    build = NodeBuilder(model, first, "token_rows")
    ids, mask = _input(model, "input_ids"), _attention_mask(model)
    zero, one = (build.constant(name, np.array([value], np.int64)) for name, value in (("zero", 0), ("one", 1)))
    axis = build.constant("axis", np.array(1, np.int64))
    new, total = build("Shape", ids, start=1, end=2), build("Shape", mask, start=1, end=2)
    ones = build("Expand", one, build("Shape", ids))

    # With ones before the mask, the T columns from 0 are S and the cached tokens, those from S the whole mask.
    static = build("Equal", build("Shape", past, start=2, end=3), total)
    begin = build("Where", static, new, zero)
    counted = build("Slice", build("Concat", ones, mask, axis=1), begin, build("Add", begin, total), one)
    lengths = build("ReduceSum", counted, one, keepdims=0)

    tokens = build("Slice", mask, build("Sub", total, new), total, one)
    rank = build("CumSum", tokens, axis)
    count = build("ReduceSum", tokens, one, keepdims=1)
    padding_rank = build("CumSum", build("Sub", ones, tokens), axis)
    rank_of_all = build(
        "Where", build("Cast", tokens, to=int(ir.DataType.BOOL)), rank, build("Add", count, padding_rank)
    )
    place = build("Sub", rank_of_all, one)
    for value in (lengths, total, place, count, ones):
        value.dtype = ir.DataType.INT64
    return TokenRows(lengths, total, place, count, ones)


def last_token_column(model: ir.Model, build: NodeBuilder) -> ir.Value:
    """The column [batch, 1] of each row's last token in input_ids, for a model that moves none."""
    ids, mask = _input(model, "input_ids"), _attention_mask(model)
    zero, one = (build.constant(name, np.array([value], np.int64)) for name, value in (("zero", 0), ("one", 1)))
    new, total = build("Shape", ids, start=1, end=2), build("Shape", mask, start=1, end=2)
    tokens = build("Slice", mask, build("Sub", total, new), total, one)
    numbers = build("CumSum", build("Expand", one, new), build.constant("axis", np.array(0, np.int64)))
    last = build("ReduceMax", build("Mul", tokens, numbers), one, keepdims=1)
    return build("Max", build("Sub", last, one), zero)


def column_offsets(model: ir.Model, build: NodeBuilder) -> ir.Value:
    """The number [batch, 1] of each row's first column when the columns of all rows are counted through."""
    ids = _input(model, "input_ids")
    one, batch = build.constant("one", np.array([1], np.int64)), build.constant("batch_axis", np.array(0, np.int64))
    ones = build("Expand", one, build("Shape", ids))
    return build("CumSum", build("ReduceSum", ones, one, keepdims=1), batch, exclusive=1)


def _input(model: ir.Model, name: str) -> ir.Value:
    return next(value for value in model.graph.inputs if value.name == name)


def _attention_mask(model: ir.Model) -> ir.Value:
    """The graph input attention_mask, which is added where the graph has none."""
    for value in model.graph.inputs:
        if value.name == "attention_mask":
            return value
    mask = ir.Value(
        name="attention_mask",
        type=ir.TensorType(ir.DataType.INT64),
        shape=ir.Shape(["batch", "past_seq_len + seq_len"]),
    )
    model.graph.inputs.insert(1, mask)
    return mask
