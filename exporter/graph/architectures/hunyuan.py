"""Hunyuan V1 (dense). It normalizes queries and keys after their rotation; the builder does so before it."""

from typing import Any

__all__ = ["adjust"]


def adjust(module: Any, config: dict[str, Any]) -> None:
    """Give each layer the order of the builder's NanoChat attention, which is otherwise the same."""
    from mobius.models.nanochat import NanoChatAttention

    for layer in module.model.layers:
        layer.self_attn.forward = NanoChatAttention.forward.__get__(layer.self_attn)
