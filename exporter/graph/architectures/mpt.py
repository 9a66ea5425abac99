"""MPT. attn_config can clip queries, keys and values, and can state the scale of scores; the builder reads neither."""

from typing import Any

__all__ = ["adjust"]


def adjust(module: Any, config: dict[str, Any]) -> None:
    """Clip what the three layers return, and scale queries by what the builder's own scale lacks."""
    limit, scale = (config["attn_config"].get(name) for name in ("clip_qkv", "softmax_scale"))
    for attention in (child for child in module.modules() if hasattr(child, "q_proj")):
        for linear in (attention.q_proj, attention.k_proj, attention.v_proj) if limit else ():
            linear.forward = _clipped(linear.forward, float(limit))
        if scale is not None:
            attention.q_proj.forward = _scaled(attention.q_proj.forward, scale * attention.head_dim**0.5)


def _clipped(forward: Any, limit: float) -> Any:
    return lambda op, x: op.Clip(forward(op, x), -limit, limit)


def _scaled(forward: Any, factor: float) -> Any:
    return lambda op, x: op.Mul(forward(op, x), factor)
