"""Cohere, Ernie 4.5, Helium. Their rotation pairs neighboring elements of a head; the builder pairs its two halves."""

import dataclasses
from typing import Any

__all__ = ["adjust", "configure"]


def configure(builder_config: Any, config: Any) -> Any:
    """Helium's projection behind attention has no bias, whatever attention_bias says of the others."""
    return dataclasses.replace(builder_config, attn_o_bias=False) if config.model_type == "helium" else builder_config


def adjust(module: Any, config: dict[str, Any]) -> None:
    """Make the rotation of every layer interleaved."""
    for layer in module.model.layers:
        layer.self_attn._rope_interleave = True
