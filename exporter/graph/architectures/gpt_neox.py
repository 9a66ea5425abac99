"""GPT-NeoX.

1. Attention and MLP read the same hidden states where use_parallel_residual says so, else one after another; the
   builder has the first form alone.
2. Embedding and head have names that the builder does not tie.
"""

import dataclasses
from functools import partial
from typing import Any

import torch

__all__ = ["adjust", "tie"]

_EMBEDDING, _HEAD = "gpt_neox.embed_in.weight", "embed_out.weight"


def adjust(module: Any, config: dict[str, Any]) -> None:
    """Apply cases 1 and 2 to the builder's module."""
    if not config["use_parallel_residual"]:
        for layer in module.gpt_neox.layers:
            layer.forward = partial(_sequential, layer)
    if module.config.tie_word_embeddings:
        tie(module, _EMBEDDING)


def _sequential(
    layer: Any, op: Any, hidden: Any, attention_bias: Any, position_embeddings: Any, past: Any = None
) -> tuple[Any, Any]:
    """Return h + attention(norm(h)), and then the same with the MLP; present keys and values."""
    normed = layer.input_layernorm(op, hidden)
    attended, present = layer.attention(op, normed, attention_bias, position_embeddings, past)
    hidden = op.Add(hidden, attended)
    return op.Add(hidden, layer.mlp(op, layer.post_attention_layernorm(op, hidden))), present


def tie(module: Any, embedding: str) -> None:
    """Give the head of the builder's `module` the tensor `embedding`."""
    module.config = dataclasses.replace(module.config, tie_word_embeddings=False)
    preprocess = module.preprocess_weights

    def preprocess_tied(stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return preprocess({**stored, _HEAD: stored[embedding]} if embedding in stored else stored)

    module.preprocess_weights = preprocess_tied
