"""Decoders whose layers do not all rotate alike: what a layer gets in place of the rotation that all share."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["leave_unrotated", "rotate_sliding_layers", "sliding_layers"]


def sliding_layers(builder_config: Any) -> list[bool]:
    """Tell for each layer of the builder's configuration if it attends within a window."""
    types = builder_config.layer_types or ["full_attention"] * builder_config.num_hidden_layers
    return [kind == "sliding_attention" for kind in types]


def leave_unrotated(layer: Any) -> None:
    """Have the builder's decoder layer rotate nothing."""
    inner = layer.forward
    layer.forward = lambda op, *, position_embeddings, **others: inner(op, position_embeddings=None, **others)


def rotate_sliding_layers(module: Any, slides: Sequence[bool], rope_parameters: Mapping[str, Any]) -> None:
    """Give the layers of the builder's `module` that slide the rotation that it calls local, the others that of all.

    Both are plain here, with the bases that `rope_parameters` has for types of layers: `rotation.py` scales them.
    """
    from mobius.components import initialize_rope

    text = module.model

    def plain(layers: str) -> Any:
        theta = rope_parameters.get(layers, {}).get("rope_theta", module.config.rope_theta)
        return initialize_rope(dataclasses.replace(module.config, rope_type="default", rope_theta=theta))

    text.rotary_emb, text.rotary_emb_local = plain("full_attention"), plain("sliding_attention")
    local: list[Any] = []
    forward = text.forward

    def with_both(op: Any, *, position_ids: Any, **others: Any) -> Any:
        local[:] = [text.rotary_emb_local(op, position_ids)]
        return forward(op, position_ids=position_ids, **others)

    def rotated(layer: Any) -> Any:
        inner = layer.forward
        return lambda op, *, position_embeddings, **others: inner(op, position_embeddings=local[0], **others)

    text.forward = with_both
    for layer, slide in zip(text.layers, slides, strict=True):
        if slide:
            layer.forward = rotated(layer)
