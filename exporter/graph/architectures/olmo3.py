"""OLMo 3. Layers with a window have a rotation of their own, which is not scaled."""

from typing import Any

from exporter.graph.architectures.layer_rotations import rotate_sliding_layers, sliding_layers

__all__ = ["adjust"]


def adjust(module: Any, config: dict[str, Any]) -> None:
    """Give layers with a window their rotation."""
    rotate_sliding_layers(module, sliding_layers(module.config), config["rope_parameters"])
