"""Cohere 2. Like Cohere (see interleaved.py); layers with a window rotate, the others see everything and do not."""

from typing import Any

from exporter.graph.architectures import interleaved
from exporter.graph.architectures.layer_kinds import LayerKind, sliding_layers, use_layer_kinds

__all__ = ["adjust"]


def adjust(module: Any, config: dict[str, Any]) -> None:
    """Interleave the rotation, and give each layer its window or none."""
    interleaved.adjust(module, config)
    text, window = module.model, module.config.sliding_window
    sliding, full = LayerKind(window, text.rotary_emb if window else None), LayerKind(None, None)
    use_layer_kinds(text, [sliding if slides else full for slides in sliding_layers(module.config)])
