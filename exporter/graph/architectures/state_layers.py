"""Layers that carry a state of fixed size in place of keys and values.

A state is what a layer keeps of all tokens before: the last inputs of a short convolution, or a matrix for each head to
which every token adds (decision 0021). A step replaces it, so it must not see padding: the columns of input_ids that
hold tokens come first (exporter/graph/token_rows.py), and `NewTokens` says how many they are.
"""

from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir
from onnxscript import nn

from dualbinary import InputError

__all__ = [
    "CausalConvolution",
    "NewTokens",
    "StateLayer",
    "decay",
    "float_parameter",
    "linear_attention",
    "put_in_state_layers",
    "time_step",
]

_ATTENTION = "full_attention"
_MIN_WIDTH = 2  # a narrower one would have nothing to keep
_TO_THE_END = 2**63 - 1


class NewTokens:
    """The tokens among the columns of input_ids, once `read` has run.

    Attributes:
        count: int64 [batch, 1].
        mask: float32 [batch, sequence, 1], 1 for the first `count` columns and 0 for padding.
    """

    count: ir.Value
    mask: ir.Value

    def read(self, op: Any, input_ids: ir.Value, attention_mask: ir.Value) -> None:
        """Place the nodes. The mask covers cached tokens before the new ones."""
        new, total = op.Shape(input_ids, start=1, end=2), op.Shape(attention_mask, start=1, end=2)
        tokens = op.Slice(attention_mask, op.Sub(total, new), total, [1])
        self.count = op.ReduceSum(tokens, [1], keepdims=1)
        column = op.Sub(op.CumSum(op.Expand(op.Constant(value_ints=[1]), new), op.Constant(value_int=0)), [1])
        self.mask = op.Unsqueeze(op.Cast(op.Less(column, self.count), to=ir.DataType.FLOAT), [2])


class StateLayer(nn.Module):
    """What stands in the place of attention in a decoder layer of the builder.

    Attributes:
        states: kind of each state ("conv", "recurrent") to its shape without the batch.
        tokens: the new tokens, the same for all layers.
    """

    states: dict[str, list[int]]
    tokens: NewTokens

    def forward(self, op: Any, hidden_states: ir.Value, past_key_value: tuple[ir.Value, ...], **_: Any) -> Any:
        """What the layer adds to [batch, sequence, hidden], and its next states."""
        raise NotImplementedError


class CausalConvolution(nn.Module):
    """A convolution of each channel with its last `width` inputs, which goes on from those that it was given before.

    y[b, t, c] = bias[c] + sum over j of weight[c, 0, j] * x[b, t - width + 1 + j, c]

    It is written as one product for each of the few j: that needs no transposed inputs, and takes the time of ONNX
    Runtime's own CausalConvWithState (docs/log/export.md), whose next state would hold padding. The sums are float32
    whatever the activations are: CPUs have no others, and each would be rounded.
    """

    def __init__(self, channels: int, width: int, *, bias: bool) -> None:
        super().__init__()
        if width < _MIN_WIDTH:
            raise InputError(f"config.json: a convolution over {width} tokens is not supported; only over 2 or more is")
        self.width, self.channels = width, channels
        self.weight = float_parameter(channels, 1, width)
        self.bias = float_parameter(channels) if bias else None

    @property
    def state(self) -> list[int]:
        """Shape of the inputs that it keeps, without the batch."""
        return [self.channels, self.width - 1]

    def forward(self, op: Any, x: ir.Value, state: ir.Value, tokens: NewTokens) -> tuple[ir.Value, ir.Value]:
        """Sums float32 for x [batch, sequence, channels], of its shape; the next state [batch, channels, width - 1]."""
        kept = self.width - 1
        inputs = op.Concat(op.Transpose(state, perm=[0, 2, 1]), x, axis=1)
        rows = op.Transpose(op.Squeeze(self.weight, [1]), perm=[1, 0])
        weights = op.Split(rows, [1] * self.width, axis=0, _outputs=self.width)
        terms = op.Cast(inputs, to=ir.DataType.FLOAT)
        y: Any = None
        for j, weight in enumerate(weights):
            end = j - kept if j < kept else _TO_THE_END
            term = op.Mul(op.Slice(terms, [j], [end], [1]), weight)
            y = term if y is None else op.Add(y, term)
        y = op.Add(y, self.bias) if self.bias is not None else y
        # Input i of the window stands behind as many columns as there are new tokens.
        places = op.Add(tokens.count, op.Constant(value_ints=list(range(kept))))
        last = op.GatherND(inputs, op.Unsqueeze(places, [2]), batch_dims=1)
        return y, op.Transpose(last, perm=[0, 2, 1])


def linear_attention(
    op: Any, query: ir.Value, key: ir.Value, value: ir.Value, state: ir.Value, decay: ir.Value, **attributes: Any
) -> tuple[ir.Value, ir.Value]:
    """ONNX Runtime's LinearAttention, in float32: a step for each token, with a state [batch, heads, key, value].

    S = exp(decay) * S + key (x) value;  output = scale * query * S. With `beta`, key and state correct the value first
    (the gated delta rule). Of query and key there are fewer heads than of values, each for as many in a row.
    """
    beta = attributes.pop("beta", None)
    inputs = [op.Cast(each, to=ir.DataType.FLOAT) for each in (query, key, value)]
    rule = "gated" if beta is None else "gated_delta"
    rest = [state, decay] if beta is None else [state, decay, beta]
    return op.LinearAttention(*inputs, *rest, update_rule=rule, _domain="com.microsoft", _outputs=2, **attributes)


def float_parameter(*shape: int) -> nn.Parameter:
    """A parameter in float32, whatever the type of the activations is."""
    parameter = nn.Parameter(shape)
    parameter._keep_float32 = True  # type: ignore[attr-defined]  # by which the builder knows it
    return parameter


def time_step(op: Any, x: ir.Value, bias: ir.Value) -> ir.Value:
    """log(1 + exp(x + bias)) in float32."""
    return op.Softplus(op.Add(op.Cast(x, to=ir.DataType.FLOAT), bias))


def decay(op: Any, step: ir.Value, logarithms: ir.Value, tokens: NewTokens) -> ir.Value:
    """-exp(logarithms) * step for tokens, and 0 for padding, by which a state stays as it is."""
    return op.Mul(op.Mul(step, op.Neg(op.Exp(logarithms))), tokens.mask)


def put_in_state_layers(
    module: Any,
    layer_types: Sequence[str],
    kind: str,
    make: Callable[[], StateLayer],
    attention: Sequence[str] = (_ATTENTION,),
) -> None:
    """Put a new layer in the place of attention where `layer_types` calls a decoder layer of the builder `kind`.

    Raises InputError for types of layers other than that and those of `attention`.
    """
    text, tokens = module.model, NewTokens()
    for number, found in enumerate(layer_types):
        if found not in (kind, *attention):
            passing = f"only {kind!r} and {' and '.join(map(repr, attention))} can be exported"
            raise InputError(f"config.json: layer_types has {found!r}; {passing}")
        if found == kind:
            layer = text.layers[number].self_attn = make()
            layer.tokens = tokens
    forward = text.forward

    def with_tokens(op: Any, *, input_ids: Any, attention_mask: Any, **others: Any) -> Any:
        tokens.read(op, input_ids, attention_mask)
        return forward(op, input_ids=input_ids, attention_mask=attention_mask, **others)

    if kind in layer_types:
        text.forward = with_tokens
