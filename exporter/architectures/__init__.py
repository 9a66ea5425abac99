"""What single architectures need beyond the graph builder's own description of them.

One file per family with one function `adjust(module, config)`, called on the builder's module before the graph exists;
one row here. A type without a row is built as the builder describes it. `VERIFIED` lists the types whose exported
logits the tests hold against transformers; any other type exports with a line that says so.
"""

import importlib
from typing import Any

__all__ = ["VERIFIED", "adjust"]

_ADJUSTMENTS = {
    "cohere": "cohere",
    "gemma": "gemma",
    "gemma2": "gemma",
    "gemma3_text": "gemma",
    "opt": "opt",
}

VERIFIED = frozenset(
    {
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
        "olmo2",
        "opt",
        "phi",
        "phi3",
        "qwen2",
        "qwen3",
        "qwen3_moe",
        "smollm3",
        "stablelm",
        "starcoder2",
    }
)


def adjust(module: Any, model_type: str, config: dict[str, Any]) -> None:
    """Correct the builder's `module` for `model_type` with the raw values of config.json."""
    name = _ADJUSTMENTS.get(model_type)
    if name is not None:
        importlib.import_module(f"exporter.architectures.{name}").adjust(module, config)
