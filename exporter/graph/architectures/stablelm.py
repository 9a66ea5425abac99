"""StableLM. Attention and MLP read the same normalized states where use_parallel_residual says so.

The builder has them one after another, each with a norm of its own.
"""

from functools import partial
from typing import Any

__all__ = ["adjust"]


def adjust(module: Any, config: dict[str, Any]) -> None:
    """Make every layer parallel where the configuration says so."""
    if config["use_parallel_residual"]:
        for layer in module.model.layers:
            layer.forward = partial(_parallel, layer)


def _parallel(
    layer: Any, op: Any, *, hidden_states: Any, attention_bias: Any, position_embeddings: Any, past_key_value: Any
) -> tuple[Any, Any]:
    """Return h + attention(norm(h)) + mlp(norm(h)), and present keys and values."""
    normed = layer.input_layernorm(op, hidden_states)
    attended, present = layer.self_attn(
        op,
        hidden_states=normed,
        attention_bias=attention_bias,
        position_embeddings=position_embeddings,
        past_key_value=past_key_value,
    )
    return op.Add(hidden_states, op.Add(attended, layer.mlp(op, normed))), present
