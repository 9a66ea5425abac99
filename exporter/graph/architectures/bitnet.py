"""BitNet. A Llama, which is what the builder makes of it, with a norm before the last layer of each half of a block."""

from typing import Any

__all__ = ["adjust"]


def adjust(module: Any, config: dict[str, Any]) -> None:
    """Put a norm before the output projection of attention, and one before that of the MLP."""
    for layer in module.model.layers:
        _norm_inputs(layer.self_attn, "o_proj", "attn_sub_norm", config["hidden_size"], config["rms_norm_eps"])
        _norm_inputs(layer.mlp, "down_proj", "ffn_sub_norm", config["intermediate_size"], config["rms_norm_eps"])


def _norm_inputs(owner: Any, linear_name: str, norm_name: str, width: int, epsilon: float) -> None:
    """Have `owner` call a new norm, `norm_name`, before its linear layer."""
    from mobius.components import RMSNorm

    linear, norm = getattr(owner, linear_name), RMSNorm(width, eps=epsilon)
    setattr(owner, norm_name, norm)
    setattr(owner, linear_name, lambda op, x: linear(op, norm(op, x)))  # the name of the layer itself stays its own
