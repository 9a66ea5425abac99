"""Cohere 2. Like Cohere (see interleaved.py), but only layers with a window rotate."""

from typing import Any

from exporter.graph.architectures import interleaved
from exporter.graph.architectures.layer_rotations import leave_unrotated, sliding_layers

__all__ = ["adjust"]


def adjust(module: Any, config: dict[str, Any]) -> None:
    """Interleave the rotation, and leave it out of layers without a window."""
    interleaved.adjust(module, config)
    for layer, slides in zip(module.model.layers, sliding_layers(module.config), strict=True):
        if not slides or config["sliding_window"] is None:
            leave_unrotated(layer)
