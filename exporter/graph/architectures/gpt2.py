"""GPT-2.

1. Two switches of the scale of attention scores, which the builder does not read: scale_attn_weights divides by
   sqrt(head size), scale_attn_by_inverse_layer_idx by the layer's number from 1.
2. The MLP's weights are stored [K, N]. The builder tells that by their shapes, as most files have N = 4K; it is so for
   every size.
"""

from typing import Any

__all__ = ["adjust"]

_MLP_NAMES = {".mlp.c_fc.": ".mlp.up_proj.", ".mlp.c_proj.": ".mlp.down_proj."}  # stored, and the builder's


def adjust(module: Any, config: dict[str, Any]) -> None:
    """Set the scale of every layer, and have the MLP's weights transposed."""
    for index, layer in enumerate(module.transformer.h):
        scale = layer.attn.head_dim**-0.5 if config["scale_attn_weights"] else 1.0
        layer.attn.scaling = scale / (index + 1) if config["scale_attn_by_inverse_layer_idx"] else scale
    preprocess = module.preprocess_weights
    module.preprocess_weights = lambda stored: preprocess(dict(_renamed(*item) for item in stored.items()))


def _renamed(name: str, tensor: Any) -> tuple[str, Any]:
    for stored, built in _MLP_NAMES.items():
        if stored in name:
            return name.replace(stored, built), tensor.t() if name.endswith(".weight") else tensor
    return name, tensor
