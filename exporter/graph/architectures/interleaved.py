"""Cohere, Ernie 4.5, Helium. Their rotation pairs neighboring elements of a head; the builder pairs its two halves."""

from typing import Any

__all__ = ["adjust"]


def adjust(module: Any, config: dict[str, Any]) -> None:
    """Make the rotation of every layer interleaved."""
    for layer in module.model.layers:
        layer.self_attn._rope_interleave = True
