"""LFM3: the convolutions of LFM2 beside attention, some of it within a window and with a rotation of its own.

Each head of attention has a gate, which the layer's inputs open, and what a layer adds to the stream passes a norm.
"""

import dataclasses
from typing import Any

from mobius.components import Linear

from exporter.graph.architectures.layer_rotations import rotate_sliding_layers
from exporter.graph.architectures.lfm2 import STORED_NAMES, put_in_convolutions
from exporter.graph.architectures.post_norms import norm_outputs, stored_post_norms
from exporter.graph.architectures.stored_names import rename_stored

__all__ = ["adjust", "configure"]

_CONVOLUTION = "conv"
_POST_NORMS = ("post_operator_norm", "post_ffn_norm")


def configure(builder_config: Any, config: Any) -> Any:
    """The builder's configuration of a Llama with norms of queries and keys; `rotation.py` knows shares of a head."""
    del config
    return dataclasses.replace(builder_config, hidden_act="silu", attn_qk_norm=True, partial_rotary_factor=1.0)


def adjust(module: Any, config: dict[str, Any]) -> None:
    """Put in what Llama has not, and have stored tensors find their places."""
    layers = list(zip(module.model.layers, config["layer_types"], strict=True))
    for layer, kind in layers:
        if kind != _CONVOLUTION and config["use_attention_gate"]:
            _add_gate(layer.self_attn)
    rotate_sliding_layers(module, [kind == "sliding_attention" for _, kind in layers], config["rope_parameters"])
    put_in_convolutions(module, config, ("full_attention", "sliding_attention"))
    for layer, _ in layers if config["use_sandwich_norm"] else ():
        norm_outputs(layer, _POST_NORMS, config["hidden_size"], config["norm_eps"])
    rename_stored(module, STORED_NAMES | stored_post_norms(_POST_NORMS))


def _add_gate(attention: Any) -> None:
    """Multiply what each head gives by the sigmoid of a product with the layer's input."""
    attention.gate_proj = Linear(attention.hidden_size, attention.num_attention_heads, bias=False)
    attend, project, gates = attention.forward, attention.o_proj.forward, []

    def with_gates(op: Any, *, hidden_states: Any, **others: Any) -> Any:
        gates[:] = [op.Unsqueeze(op.Sigmoid(attention.gate_proj(op, hidden_states)), [3])]
        return attend(op, hidden_states=hidden_states, **others)

    def project_gated(op: Any, x: Any) -> Any:
        heads = op.Reshape(x, [0, 0, attention.num_attention_heads, attention.head_dim])
        return project(op, op.Reshape(op.Mul(heads, gates[0]), [0, 0, -1]))

    attention.forward, attention.o_proj.forward = with_gates, project_gated
