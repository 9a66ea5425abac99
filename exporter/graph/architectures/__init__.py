"""Corrections of the graph builder for single architectures.

One file per family with one function `adjust(module, config)`, called on the builder's module before the graph exists;
one row here. A type without a row needs none. Rotations and windows are the same matter for all families
(`rotation.py`, `windows.py`). `VERIFIED` lists the types whose exported logits the tests compare with transformers, for
every field of config.json (`config_fields.toml`); any other type exports with a line that says so.
"""

import dataclasses
import importlib
from typing import Any

__all__ = ["VERIFIED", "adjust", "prepare"]

_ADJUSTMENTS = {
    "cohere": "cohere",
    "gemma": "gemma",
    "gemma2": "gemma",
    "gemma3_text": "gemma",
    "gpt2": "gpt2",
    "gpt_neox": "gpt_neox",
    "olmo": "olmo",
    "opt": "opt",
    "stablelm": "stablelm",
}

VERIFIED = frozenset(
    {
        "arcee",
        "bloom",
        "cohere",
        "gemma",
        "gemma2",
        "gemma3_text",
        "gpt2",
        "gpt_neox",
        "granite",
        "llama",
        "mistral",
        "mixtral",
        "nemotron",
        "olmo",
        "olmo2",
        "opt",
        "phi",
        "phi3",
        "qwen2",
        "qwen2_moe",
        "qwen3",
        "qwen3_moe",
        "smollm3",
        "stablelm",
        "starcoder2",
    }
)

_BUILDER_NAMES = {"mlp_bias": "mlp_bias", "qkv_bias": "attn_qkv_bias"}  # fields that the builder has by another name


def prepare(config: Any, values: dict[str, Any]) -> Any:
    """The builder's own configuration object with the fields that it does not find in config.json."""
    found = {name: values[field] for field, name in _BUILDER_NAMES.items() if field in values}
    return dataclasses.replace(config, **found) if found else config


def adjust(module: Any, model_type: str, values: dict[str, Any]) -> None:
    """Correct the builder's `module` for `model_type`, whose configuration has `values`."""
    name = _ADJUSTMENTS.get(model_type)
    if name is not None:
        importlib.import_module(f"exporter.graph.architectures.{name}").adjust(module, values)
