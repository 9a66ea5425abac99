"""Corrections of the graph builder for single architectures.

One file per family, one row here. Its function `configure(builder_config, config)` returns the builder's configuration
with what transformers' `config` says, and `adjust(module, values)` corrects the builder's module before the graph
exists; a family has one of them or both. A type without a row needs none. A type of `_BUILT_AS` is made of the
builder's module for another one, and layers of a type of `_HYBRID` may carry a state in place of keys and values.
Rotations and windows are the same matter for all families: `rotation.py`, `windows.py`. `VERIFIED` lists the types
whose exported logits the tests compare with transformers, for every field of config.json (`config_fields.toml` in
`dualbinary/architectures`); `refused.py` there lists types that cannot be exported; any other type exports with a line
that says so.
"""

import dataclasses
import importlib
from types import ModuleType
from typing import Any

__all__ = ["VERIFIED", "adjust", "builder_type", "configure", "is_hybrid"]

_ADJUSTMENTS = {
    "bitnet": "bitnet",
    "codegen": "biases",
    "cohere": "interleaved",
    "cohere2": "cohere2",
    "deepseek_v2": "deepseek",
    "deepseek_v3": "deepseek",
    "dots1": "deepseek",
    "ernie4_5": "interleaved",
    "exaone4": "exaone4",
    "falcon": "falcon",
    "gemma": "gemma",
    "gemma2": "gemma",
    "gemma3_text": "gemma",
    "gemma4_text": "gemma4",
    "gemma4_unified_text": "gemma4",
    "glm": "biases",
    "glm4": "biases",
    "gpt2": "gpt2",
    "gpt_neox": "gpt_neox",
    "gpt_oss": "gpt_oss",
    "gptj": "biases",
    "granitemoehybrid": "granitemoehybrid",
    "helium": "interleaved",
    "hunyuan_v1_dense": "hunyuan",
    "hyperclovax": "hyperclovax",
    "lfm2": "lfm2",
    "lfm3": "lfm3",
    "ministral3": "ministral3",
    "mpt": "mpt",
    "nanochat": "nanochat",
    "olmo": "olmo",
    "olmo3": "olmo3",
    "olmoe": "olmo",
    "opt": "opt",
    "persimmon": "biases",
    "qwen3_5_text": "qwen3_5",
    "seed_oss": "biases",
    "stablelm": "stablelm",
    "vaultgemma": "vaultgemma",
    "youtu": "deepseek",
}

_BUILT_AS = {
    "bitnet": "llama",
    "cwm": "llama",
    "granitemoehybrid": "granite",
    "hyperclovax": "granite",
    "lfm2": "llama",
    "lfm3": "llama",
    "vaultgemma": "gemma2",
}
_HYBRID = frozenset({"granitemoehybrid", "lfm2", "lfm3", "qwen3_5_text"})

VERIFIED = frozenset(
    {
        "apertus",
        "arcee",
        "bitnet",
        "bloom",
        "codegen",
        "cohere",
        "cohere2",
        "cwm",
        "deepseek_v2",
        "deepseek_v3",
        "dots1",
        "ernie4_5",
        "exaone4",
        "falcon",
        "flex_olmo",
        "gemma",
        "gemma2",
        "gemma3_text",
        "gemma4_text",
        "gemma4_unified_text",
        "glm",
        "glm4",
        "gpt2",
        "gpt_bigcode",
        "gpt_neo",
        "gpt_neox",
        "gpt_oss",
        "gptj",
        "granite",
        "granitemoe",
        "granitemoehybrid",
        "helium",
        "hunyuan_v1_dense",
        "hyperclovax",
        "lfm2",
        "lfm3",
        "llama",
        "ministral",
        "ministral3",
        "mistral",
        "mixtral",
        "mpt",
        "nanochat",
        "nemotron",
        "olmo",
        "olmo2",
        "olmo3",
        "olmoe",
        "openai-gpt",
        "opt",
        "persimmon",
        "phi",
        "phi3",
        "qwen2",
        "qwen2_moe",
        "qwen3",
        "qwen3_5_text",
        "qwen3_moe",
        "seed_oss",
        "smollm3",
        "stablelm",
        "starcoder2",
        "vaultgemma",
        "youtu",
    }
)

_BUILDER_NAMES = {"mlp_bias": "mlp_bias", "qkv_bias": "attn_qkv_bias"}  # fields that the builder has by another name


def builder_type(model_type: str) -> str:
    """The type whose module of the builder `model_type` is made of."""
    return _BUILT_AS.get(model_type, model_type)


def is_hybrid(model_type: str) -> bool:
    """Tell if layers of `model_type` carry a state in place of keys and values."""
    return model_type in _HYBRID


def configure(builder_config: Any, read: Any, values: dict[str, Any]) -> Any:
    """The builder's own configuration, corrected by what transformers' `read` and its `values` say."""
    found = {name: values[field] for field, name in _BUILDER_NAMES.items() if field in values}
    builder_config = dataclasses.replace(builder_config, **found) if found else builder_config
    correct = getattr(_family(read.model_type), "configure", None)
    return builder_config if correct is None else correct(builder_config, read)


def adjust(module: Any, model_type: str, values: dict[str, Any]) -> None:
    """Correct the builder's `module` for `model_type`, whose configuration has `values`."""
    correct = getattr(_family(model_type), "adjust", None)
    if correct is not None:
        correct(module, values)


def _family(model_type: str) -> ModuleType | None:
    name = _ADJUSTMENTS.get(model_type)
    return importlib.import_module(f"exporter.graph.architectures.{name}") if name is not None else None
