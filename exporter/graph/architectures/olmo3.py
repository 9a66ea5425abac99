"""OLMo 3. Layers with a window have a rotation of their own, which is not scaled."""

import dataclasses
from typing import Any

from exporter.graph.architectures.layer_rotations import sliding_layers

__all__ = ["adjust"]


def adjust(module: Any, config: dict[str, Any]) -> None:
    """Give layers with a window the rotation that the builder calls local."""
    from mobius.components import initialize_rope

    text = module.model
    text.rotary_emb_local = initialize_rope(dataclasses.replace(module.config, rope_type="default", rope_scaling=None))
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
