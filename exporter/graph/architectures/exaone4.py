"""EXAONE 4. Where config.json has a window, only layers with it rotate."""

from typing import Any

from exporter.graph.architectures.layer_rotations import leave_unrotated, sliding_layers

__all__ = ["adjust"]


def adjust(module: Any, config: dict[str, Any]) -> None:
    """Leave the rotation out of layers without a window."""
    if config["sliding_window"] is None:
        return
    for layer, slides in zip(module.model.layers, sliding_layers(module.config), strict=True):
        if not slides:
            leave_unrotated(layer)
