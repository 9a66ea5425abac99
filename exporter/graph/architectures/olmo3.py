"""OLMo 3. Layers with a window take turns with layers without one, and only the latter's rotation may be scaled."""

import dataclasses
from typing import Any

from exporter.graph.architectures.layer_kinds import LayerKind, sliding_layers, use_layer_kinds

__all__ = ["adjust"]


def adjust(module: Any, config: dict[str, Any]) -> None:
    """Give each layer its window and its rotation."""
    from mobius.components import initialize_rope

    text, window = module.model, module.config.sliding_window
    plain = dataclasses.replace(module.config, rope_type="default", rope_scaling=None)
    text.rotary_emb_local = initialize_rope(plain)
    sliding, full = LayerKind(window, text.rotary_emb_local), LayerKind(None, text.rotary_emb)
    use_layer_kinds(text, [sliding if slides else full for slides in sliding_layers(module.config)])
