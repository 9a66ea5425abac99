"""GPT-NeoX. Attention and MLP read the same hidden states where use_parallel_residual says so, else one after another.

The builder has the first form alone.
"""

from functools import partial
from typing import Any

__all__ = ["adjust"]


def adjust(module: Any, config: dict[str, Any]) -> None:
    """Make every layer sequential where the configuration says so."""
    if config["use_parallel_residual"]:
        return
    for layer in module.gpt_neox.layers:
        layer.forward = partial(_sequential, layer)


def _sequential(
    layer: Any, op: Any, hidden: Any, attention_bias: Any, position_embeddings: Any, past: Any = None
) -> tuple[Any, Any]:
    """Return h + attention(norm(h)), and then the same with the MLP; present keys and values."""
    normed = layer.input_layernorm(op, hidden)
    attended, present = layer.attention(op, normed, attention_bias, position_embeddings, past)
    hidden = op.Add(hidden, attended)
    return op.Add(hidden, layer.mlp(op, layer.post_attention_layernorm(op, hidden))), present
