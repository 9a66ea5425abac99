"""Ministral. Layers with a window and layers without one take turns."""

from typing import Any

from exporter.graph.architectures.layer_kinds import LayerKind, sliding_layers, use_layer_kinds

__all__ = ["adjust"]


def adjust(module: Any, config: dict[str, Any]) -> None:
    """Give each layer its window or none."""
    text, window = module.model, module.config.sliding_window
    kinds = [LayerKind(window if slides else None, text.rotary_emb) for slides in sliding_layers(module.config)]
    use_layer_kinds(text, kinds)
