"""Decoders whose layers do not all rotate alike: what a layer gets in place of the rotation that all share."""

from typing import Any

__all__ = ["leave_unrotated", "sliding_layers"]


def sliding_layers(builder_config: Any) -> list[bool]:
    """Tell for each layer of the builder's configuration if it attends within a window."""
    types = builder_config.layer_types or ["full_attention"] * builder_config.num_hidden_layers
    return [kind == "sliding_attention" for kind in types]


def leave_unrotated(layer: Any) -> None:
    """Have the builder's decoder layer rotate nothing."""
    inner = layer.forward
    layer.forward = lambda op, *, position_embeddings, **others: inner(op, position_embeddings=None, **others)
