"""OLMo 3. Layers with a window have a rotation of their own, which is not scaled."""

import dataclasses
from typing import Any

from exporter.graph.architectures.layer_rotations import sliding_layers

__all__ = ["adjust"]


def adjust(module: Any, config: dict[str, Any]) -> None:
    """Give layers with a window the rotation that the builder calls local. `rotation.py` scales the other one."""
    from mobius.components import initialize_rope

    text, rope = module.model, config["rope_parameters"]

    def plain(layers: str) -> Any:
        theta = rope[layers]["rope_theta"]
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
    for layer, slides in zip(text.layers, sliding_layers(module.config), strict=True):
        if slides:
            layer.forward = rotated(layer)
