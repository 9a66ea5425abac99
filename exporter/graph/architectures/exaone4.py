"""EXAONE 4. Where config.json has a window, only layers with it rotate, and the others see everything."""

from typing import Any

from exporter.graph.architectures.layer_kinds import LayerKind, sliding_layers, use_layer_kinds

__all__ = ["adjust"]


def adjust(module: Any, config: dict[str, Any]) -> None:
    """Give each layer its window and its rotation."""
    text, window = module.model, module.config.sliding_window
    sliding = LayerKind(window, text.rotary_emb)
    full = LayerKind(None, None if window else text.rotary_emb)
    use_layer_kinds(text, [sliding if slides else full for slides in sliding_layers(module.config)])
