"""Qwen 3.5 (text): gated delta rule in most layers, attention with a gate behind it in the others.

The builder's layers of the first kind count padding as tokens, divide queries and keys by norms without an epsilon,
and always have SiLU behind their convolution; so they are made here. Its rotation for images (mRoPE) is the plain one
where there is but text.
"""

import dataclasses
from typing import Any

import onnx_ir as ir
from mobius.components import Linear, get_activation
from mobius.components._rms_norm import PostGatedRMSNorm

from exporter.graph.architectures.state_layers import (
    CausalConvolution,
    StateLayer,
    decay,
    float_parameter,
    linear_attention,
    put_in_state_layers,
    time_step,
)
from exporter.graph.architectures.stored_names import rename_stored

__all__ = ["adjust", "configure"]

_KIND = "linear_attention"
_NORM_EPSILON = 1e-6  # of queries and keys


def configure(builder_config: Any, config: Any) -> Any:
    """The builder's configuration without positions of images."""
    return dataclasses.replace(builder_config, mrope_section=None)


def adjust(module: Any, config: dict[str, Any]) -> None:
    """Put in the layers with the gated delta rule."""
    for layer in module.model.layers:
        layer.layer_type = "full_attention"  # by which the builder's layer calls what stands in the place of attention
    put_in_state_layers(module, config["layer_types"], _KIND, lambda: _GatedDelta(config))
    rename_stored(module, {".linear_attn.": ".self_attn."})


class _GatedDelta(StateLayer):
    """out(norm(delta rule over queries, keys and values behind a convolution) * silu(z)), in heads."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        size, width = config["hidden_size"], config["linear_conv_kernel_dim"]
        self.heads, self.key_heads = config["linear_num_value_heads"], config["linear_num_key_heads"]
        self.head_size, self.key_size = config["linear_value_head_dim"], config["linear_key_head_dim"]
        keys, values = self.key_heads * self.key_size, self.heads * self.head_size
        self.sizes = [keys, keys, values]
        self.in_proj_qkv = Linear(size, 2 * keys + values, bias=False)
        self.in_proj_z = Linear(size, values, bias=False)
        self.in_proj_b = Linear(size, self.heads, bias=False)
        self.in_proj_a = Linear(size, self.heads, bias=False)
        self.conv1d = CausalConvolution(2 * keys + values, width, bias=False)
        self.activation = get_activation(config["hidden_act"])
        self.dt_bias, self.A_log = float_parameter(self.heads), float_parameter(self.heads)
        self.norm = PostGatedRMSNorm(self.head_size, eps=config["rms_norm_eps"])
        self.out_proj = Linear(values, size, bias=False)
        self.states = {"conv": self.conv1d.state, "recurrent": [self.heads, self.key_size, self.head_size]}

    def forward(self, op: Any, hidden_states: ir.Value, past_key_value: tuple[ir.Value, ...], **_: Any) -> Any:
        """See the class."""
        mixed, conv_state = self.conv1d(op, self.in_proj_qkv(op, hidden_states), past_key_value[0], self.tokens)
        query, key, value = op.Split(self.activation(op, mixed), self.sizes, axis=-1, _outputs=3)
        z, b, a = (layer(op, hidden_states) for layer in (self.in_proj_z, self.in_proj_b, self.in_proj_a))
        y, state = linear_attention(
            op,
            self._normalized(op, query),
            self._normalized(op, key),
            value,
            past_key_value[1],
            decay(op, time_step(op, a, self.dt_bias), self.A_log, self.tokens),
            beta=op.Mul(op.Sigmoid(op.Cast(b, to=ir.DataType.FLOAT)), self.tokens.mask),
            scale=self.key_size**-0.5,
            q_num_heads=self.key_heads,
            kv_num_heads=self.heads,
        )
        heads = [0, 0, self.heads, self.head_size]
        gated = self.norm(op, op.Reshape(op.CastLike(y, hidden_states), heads), op.Reshape(z, heads))
        return self.out_proj(op, op.Reshape(gated, [0, 0, -1])), (conv_state, state)

    def _normalized(self, op: Any, x: ir.Value) -> ir.Value:
        """Each head of x [batch, sequence, heads * size], divided by its norm, in float32."""
        x = op.Reshape(op.Cast(x, to=ir.DataType.FLOAT), [0, 0, self.key_heads, self.key_size])
        norm = op.Sqrt(op.Add(op.ReduceSumSquare(x, [-1], keepdims=1), _NORM_EPSILON))
        return op.Reshape(op.Div(x, norm), [0, 0, -1])
