"""LFM3: the convolutions of LFM2 beside attention, some of it within a window and with a rotation of its own.

Each head of attention has a gate, which the layer's inputs open, and what a layer adds to the stream passes a norm.
"""

import dataclasses
from typing import Any

from mobius.components import Linear, RMSNorm

from exporter.graph.architectures.layer_rotations import rotate_sliding_layers
from exporter.graph.architectures.lfm2 import STORED_NAMES, put_in_convolutions
from exporter.graph.architectures.stored_names import rename_stored

__all__ = ["adjust", "configure"]

_CONVOLUTION = "conv"
_NAMES = {  # of norms, by the parts that call them here
    ".post_operator_norm.": ".self_attn.post_operator_norm.",
    ".post_ffn_norm.": ".mlp.post_ffn_norm.",
}


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
        _add_norms(layer, config)
    rename_stored(module, STORED_NAMES | _NAMES)


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


def _add_norms(layer: Any, config: dict[str, Any]) -> None:
    """Norm what attention or convolution, and the MLP, add to the stream."""
    for name in ("post_operator_norm", "post_ffn_norm"):
        setattr(layer, name, RMSNorm(config["hidden_size"], eps=config["norm_eps"]))
    operator, mlp = layer.self_attn.forward, layer.mlp.forward

    def operator_and_norm(op: Any, **others: Any) -> Any:
        added, present = operator(op, **others)
        return layer.post_operator_norm(op, added), present

    layer.self_attn.forward = operator_and_norm
    layer.mlp.forward = lambda op, hidden_states: layer.post_ffn_norm(op, mlp(op, hidden_states))
