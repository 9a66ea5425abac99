"""Granite 4 (MoE hybrid): Mamba-2 or attention in each layer, a shared MLP, and experts beside it where there are any.

The builder's own module leaves out what multiplies embeddings, scores and logits, rotates nothing, knows neither
layers without experts nor the names of today's layer types, and counts padding as tokens. Its Granite has the first;
the rest is put in here.
"""

import dataclasses
from typing import Any

import onnx_ir as ir
import torch
from mobius.components import MLP, Linear, get_activation
from mobius.components._moe import MoELayer
from mobius.components._rms_norm import GatedRMSNorm
from onnxscript import nn

from exporter.graph.architectures.layer_rotations import leave_unrotated
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

__all__ = ["adjust"]

_KIND = "linear_attention"
_ROTATED = "rope"
_SHARED = ".shared_mlp."
_HALVES = ("gate_proj", "up_proj")  # of the matrix that files have for both


def adjust(module: Any, config: dict[str, Any]) -> None:
    """Put in the state space layers and the MLPs, and have stored tensors find their places."""
    put_in_state_layers(module, config["layer_types"], _KIND, lambda: _Mamba2(config))
    for layer in module.model.layers:
        layer.mlp = _Experts(module.config, config["shared_intermediate_size"])
        if config["position_embedding_type"] != _ROTATED:
            leave_unrotated(layer)
    _split_stored(module)
    rename_stored(module, {".mamba.": ".self_attn.", _SHARED: ".mlp.shared."})


class _Experts(nn.Module):
    """The shared MLP, and experts whose sum is added to it."""

    def __init__(self, config: Any, shared_size: int) -> None:
        super().__init__()
        self.shared = MLP(dataclasses.replace(config, intermediate_size=shared_size))
        self.routed = MoELayer(config) if config.num_local_experts else None

    def forward(self, op: Any, x: ir.Value) -> ir.Value:
        """See the class."""
        y = self.shared(op, x)
        return y if self.routed is None else op.Add(self.routed(op, x), y)


class _Mamba2(StateLayer):
    """A state [N, P] of each head, S = exp(A dt) S + B (x) dt x, that is read by C; y = C S + D x, gated by z.

    dt is a number of each head and token, and B and C have fewer heads than x: that is linear attention with C, B and
    dt x for queries, keys and values. The norm takes the heads that share B and C together.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        size, bias = config["hidden_size"], config["mamba_proj_bias"]
        self.heads, self.groups = config["mamba_n_heads"], config["mamba_n_groups"]
        self.head_size, state_size = config["mamba_d_head"], config["mamba_d_state"]
        inner, keys = self.heads * self.head_size, self.groups * state_size
        self.sizes, self.inner_sizes = [inner, inner + 2 * keys, self.heads], [inner, keys, keys]
        self.in_proj = Linear(size, sum(self.sizes), bias=bias)
        self.conv1d = CausalConvolution(inner + 2 * keys, config["mamba_d_conv"], bias=config["mamba_conv_bias"])
        self.activation = get_activation(config["hidden_act"])
        self.dt_bias, self.A_log, self.D = (float_parameter(self.heads) for _ in range(3))
        self.norm = GatedRMSNorm(inner, eps=config["rms_norm_eps"], group_size=inner // self.groups)
        self.out_proj = Linear(inner, size, bias=bias)
        self.states = {"conv": self.conv1d.state, "recurrent": [self.heads, state_size, self.head_size]}

    def forward(self, op: Any, hidden_states: ir.Value, past_key_value: tuple[ir.Value, ...], **_: Any) -> Any:
        """See the class."""
        z, mixed, dt = op.Split(self.in_proj(op, hidden_states), self.sizes, axis=-1, _outputs=3)
        mixed, conv_state = self.conv1d(op, mixed, past_key_value[0], self.tokens)
        x, key, query = op.Split(self.activation(op, mixed), self.inner_sizes, axis=-1, _outputs=3)
        x = op.Reshape(op.Cast(x, to=ir.DataType.FLOAT), [0, 0, self.heads, self.head_size])
        step = time_step(op, dt, self.dt_bias)
        value = op.Mul(x, op.Unsqueeze(op.Mul(step, self.tokens.mask), [3]))
        y, state = linear_attention(
            op,
            query,
            key,
            op.Reshape(value, [0, 0, -1]),
            past_key_value[1],
            decay(op, step, self.A_log, self.tokens),
            scale=1.0,
            q_num_heads=self.groups,
            kv_num_heads=self.heads,
        )
        y = op.Add(y, op.Reshape(op.Mul(x, op.Unsqueeze(self.D, [1])), [0, 0, -1]))
        return self.out_proj(op, self.norm(op, op.CastLike(y, hidden_states), z)), (conv_state, state)


def _split_stored(module: Any) -> None:
    """Have the builder's module take gates and values of MLPs apart, and the matrices of the experts."""
    preprocess = module.preprocess_weights

    def preprocess_split(stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        from mobius.models.moe import _rename_moe_expert_weights

        split = {}
        for name, tensor in stored.items():
            if name.endswith(f"{_SHARED}input_linear.weight"):
                halves = tensor.split(tensor.shape[0] // 2)
                split |= {name.replace("input_linear", part): half for part, half in zip(_HALVES, halves, strict=True)}
            else:
                split[name.replace(f"{_SHARED}output_linear", f"{_SHARED}down_proj")] = tensor
        split = {name.replace(".block_sparse_moe.", ".mlp.routed."): tensor for name, tensor in split.items()}
        return preprocess(_rename_moe_expert_weights(split))

    module.preprocess_weights = preprocess_split
