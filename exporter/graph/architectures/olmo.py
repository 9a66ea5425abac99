"""OLMo, OLMoE. Queries, keys and values can be clipped to [-clip_qkv, clip_qkv] before the rotation, behind norms."""

from typing import Any

__all__ = ["adjust"]


def adjust(module: Any, config: dict[str, Any]) -> None:
    """Clip what the last layers before the rotation return."""
    limit = config["clip_qkv"]
    if limit is None:
        return
    for layer in module.model.layers:
        attention = layer.self_attn
        for last in (attention.q_norm or attention.q_proj, attention.k_norm or attention.k_proj, attention.v_proj):
            last.forward = _clipped(last.forward, float(limit))


def _clipped(forward: Any, limit: float) -> Any:
    return lambda op, x: op.Clip(forward(op, x), -limit, limit)
