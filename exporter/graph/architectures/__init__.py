"""Corrections of the graph builder for single architectures.

One file per family, one row here. Its function `configure(builder_config, config)` returns the builder's configuration
with what transformers' own says, and `adjust(module, config)` corrects the builder's module before the graph exists; a
family has one of them or both. A type without a row needs none. `VERIFIED` lists the types whose exported logits the tests compare with
transformers; any other type exports with a line that says so.
"""

import importlib
from types import ModuleType
from typing import Any

from dualbinary import InputError

__all__ = ["VERIFIED", "adjust", "configure", "refuse_ignored_values"]

_ADJUSTMENTS = {
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
    "glm": "biases",
    "glm4": "biases",
    "gpt_neox": "gpt_neox",
    "gpt_neox_japanese": "gpt_neox",
    "gptj": "biases",
    "helium": "interleaved",
    "hunyuan_v1_dense": "hunyuan",
    "ministral": "ministral",
    "nanochat": "nanochat",
    "olmo3": "olmo3",
    "opt": "opt",
    "persimmon": "biases",
    "seed_oss": "biases",
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


# Values of config.json that the builder ignores: with any other value it silently builds another model.
_ONLY: dict[str, dict[str, Any]] = {
    "bloom": {"apply_residual_connection_post_layernorm": False},
    "gpt2": {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "reorder_and_upcast_attn": False},
    "gpt_neox": {"use_parallel_residual": True},
    "mixtral": {"sliding_window": None},
    "opt": {"do_layer_norm_before": True, "_remove_final_layer_norm": False},
    "qwen2": {"use_sliding_window": False},
    "qwen2_moe": {"use_sliding_window": False},
    "qwen3": {"use_sliding_window": False},
    "qwen3_moe": {"use_sliding_window": False},
}
_ROPE_TYPES = ("rope_parameters", "rope_scaling")  # where transformers 5 and 4 write how positions are scaled
_REFUSED_ROPE = "dynamic"  # its tables depend on the length of the sequence, which a graph's tables cannot


def refuse_ignored_values(model_type: str, config: dict[str, Any]) -> None:
    """Raise InputError where `config` has a value that the graph would not honor."""
    for key, value in _ONLY.get(model_type, {}).items():
        if config.get(key, value) != value:
            raise InputError(f"config.json: {key}={config[key]!r} is not supported for {model_type}; only {value!r} is")
    for key in _ROPE_TYPES:
        rope = config.get(key)
        if isinstance(rope, dict) and _REFUSED_ROPE in (rope.get("rope_type"), rope.get("type")):
            raise InputError(
                f"config.json: {key} of type {_REFUSED_ROPE!r} changes with the length and cannot be exported"
            )


def configure(model_type: str, builder_config: Any, config: Any) -> Any:
    """The builder's configuration of a `model_type`, corrected by what transformers' `config` says."""
    correct = getattr(_family(model_type), "configure", None)
    return builder_config if correct is None else correct(builder_config, config)


def adjust(module: Any, model_type: str, config: dict[str, Any]) -> None:
    """Correct the builder's `module` for `model_type` with the raw values of config.json."""
    correct = getattr(_family(model_type), "adjust", None)
    if correct is not None:
        correct(module, config)


def _family(model_type: str) -> ModuleType | None:
    name = _ADJUSTMENTS.get(model_type)
    return importlib.import_module(f"exporter.graph.architectures.{name}") if name is not None else None
