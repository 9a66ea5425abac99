"""OLMo. Queries, keys and values are clipped to [-clip_qkv, clip_qkv] before the rotation; the builder does not."""

from typing import Any

__all__ = ["adjust"]


def adjust(module: Any, config: dict[str, Any]) -> None:
    """Clip what the three layers return."""
    limit = config["clip_qkv"]
    if limit is None:
        return
    for layer in module.model.layers:
        attention = layer.self_attn
        for linear in (attention.q_proj, attention.k_proj, attention.v_proj):
            linear.forward = _clipped(linear.forward, float(limit))


def _clipped(forward: Any, limit: float) -> Any:
    return lambda op, x: op.Clip(forward(op, x), -limit, limit)
