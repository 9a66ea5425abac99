"""LFM2: decoders most of whose layers have a short convolution in place of attention.

The builder has no such type. Its Llama is the rest of it: norms, attention with norms of queries and keys, gated MLP.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
from mobius.components import Linear

from exporter.graph.architectures.state_layers import CausalConvolution, StateLayer, put_in_state_layers
from exporter.graph.architectures.stored_names import rename_stored

__all__ = ["STORED_NAMES", "adjust", "configure", "put_in_convolutions"]

STORED_NAMES = {  # in this order
    ".self_attn.out_proj.": ".self_attn.o_proj.",
    ".conv.conv.": ".self_attn.conv.",
    ".conv.in_proj.": ".self_attn.in_proj.",
    ".conv.out_proj.": ".self_attn.out_proj.",
    ".operator_norm.": ".input_layernorm.",
    ".ffn_norm.": ".post_attention_layernorm.",
    ".feed_forward.w1.": ".mlp.gate_proj.",
    ".feed_forward.w2.": ".mlp.down_proj.",
    ".feed_forward.w3.": ".mlp.up_proj.",
    ".q_layernorm.": ".q_norm.",
    ".k_layernorm.": ".k_norm.",
    "model.embedding_norm.": "model.norm.",
}


def configure(builder_config: Any, config: Any) -> Any:
    """The builder's configuration of a Llama with norms of queries and keys, and MLPs as wide as LFM2 makes them."""
    width = config.intermediate_size
    if config.block_auto_adjust_ff_dim:
        width = int(2 * width / 3)
        if config.block_ffn_dim_multiplier is not None:
            multiple = config.block_multiple_of
            width = -(-int(config.block_ffn_dim_multiplier * width) // multiple) * multiple
    return dataclasses.replace(builder_config, intermediate_size=width, hidden_act="silu", attn_qk_norm=True)


def adjust(module: Any, config: dict[str, Any]) -> None:
    """Put in the convolutions, and have stored tensors find their places."""
    put_in_convolutions(module, config)
    rename_stored(module, STORED_NAMES)


def put_in_convolutions(module: Any, config: dict[str, Any], attention: Sequence[str] = ("full_attention",)) -> None:
    """Put in the convolutions beside layers of the types `attention`."""
    size, width, bias = config["hidden_size"], config["conv_L_cache"], config["conv_bias"]
    put_in_state_layers(module, config["layer_types"], "conv", lambda: _ShortConvolution(size, width, bias), attention)


class _ShortConvolution(StateLayer):
    """out(C * conv(B * x)), where B, C and x are three projections of the input."""

    def __init__(self, size: int, width: int, bias: bool) -> None:
        super().__init__()
        self.in_proj = Linear(size, 3 * size, bias=bias)
        self.conv = CausalConvolution(size, width, bias=bias)
        self.out_proj = Linear(size, size, bias=bias)
        self.states = {"conv": self.conv.state}

    def forward(self, op: Any, hidden_states: ir.Value, past_key_value: tuple[ir.Value, ...], **_: Any) -> Any:
        """See the class."""
        b, c, x = op.Split(self.in_proj(op, hidden_states), num_outputs=3, axis=-1, _outputs=3)
        y, state = self.conv(op, op.Mul(b, x), past_key_value[0], self.tokens)
        return self.out_proj(op, op.Mul(c, op.CastLike(y, c))), (state,)
