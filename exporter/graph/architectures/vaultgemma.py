"""VaultGemma: a Gemma 2 without the norms behind attention and MLP."""

from typing import Any

from exporter.graph.architectures import gemma

__all__ = ["adjust"]


def adjust(module: Any, config: dict[str, Any]) -> None:
    """Leave out these norms, and correct what `gemma.py` corrects in all Gemmas."""
    gemma.adjust(module, config)
    for layer in module.model.layers:
        layer.post_attention_layernorm = layer.post_feedforward_layernorm = lambda op, added: added
