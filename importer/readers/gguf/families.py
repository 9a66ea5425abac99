"""The model families that a GGUF file can be of: what each has of its own in configuration and in stored rows.

llama.cpp stores some weights otherwise than transformers: rows of queries and keys in the order of its rotation, fused
projections by kind and not by head, and norms with the one that the model adds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dualbinary import InputError
from importer.readers.gguf.keys import Keys

__all__ = ["FAMILIES", "Family"]

Rows = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Family:
    """An architecture.

    Attributes:
        model_type: of transformers.
        values: takes the metadata and what all families have, and gives what config.json has besides.
        rows: takes the name of a tensor, its number of rows and the configuration, and gives the number of the stored
            row for each row in transformers, or None where they are the same.
        norm_offset: what stored weights of norms have more than in transformers.
    """

    model_type: str
    values: Callable[[Keys, dict[str, Any]], dict[str, Any]] = lambda keys, values: {}
    rows: Callable[[str, int, Any], Rows | None] = lambda name, count, config: None
    norm_offset: float = 0.0


def _has(keys: Keys, part: str) -> bool:
    return any(part in name for name in keys.container.tensors)


def _biases(keys: Keys, values: dict[str, Any]) -> dict[str, Any]:
    return {"attention_bias": _has(keys, ".attn_q.bias"), "mlp_bias": _has(keys, ".ffn_up.bias")}


def _attention_bias(keys: Keys, values: dict[str, Any]) -> dict[str, Any]:
    return {"attention_bias": _has(keys, ".attn_q.bias")}


def _granite(keys: Keys, values: dict[str, Any]) -> dict[str, Any]:
    return _biases(keys, values) | {
        "attention_multiplier": keys.real("attention.scale", 1.0),
        "embedding_multiplier": keys.real("embedding_scale", 1.0),
        "residual_multiplier": keys.real("residual_scale", 1.0),
        "logits_scaling": keys.real("logit_scale", 1.0),
    }


def _query_scale(keys: Keys, values: dict[str, Any], large: int) -> float:
    """What a query's product is divided by the root of; llama.cpp knows the largest models by their layers."""
    wide = values["hidden_size"] // values["num_attention_heads"]
    return wide if values["num_hidden_layers"] == large else values["head_dim"]


def _layer_types(keys: Keys, layers: int, every: int) -> list[str]:
    """Which layers see all that was before: each `every`th, where the file does not say another number or list."""
    pattern = "attention.sliding_window_pattern"
    if keys.is_list(pattern):
        sliding = keys.layers(pattern, layers)
    else:
        every = keys.whole(pattern, every)
        sliding = [(layer + 1) % every for layer in range(layers)]
    return ["sliding_attention" if slides else "full_attention" for slides in sliding]


def _gemma2(keys: Keys, values: dict[str, Any]) -> dict[str, Any]:
    return {
        "query_pre_attn_scalar": _query_scale(keys, values, 46),
        "sliding_window": keys.whole("attention.sliding_window", 4096),
        "layer_types": _layer_types(keys, values["num_hidden_layers"], 2),
        "attn_logit_softcapping": keys.real("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": keys.real("final_logit_softcapping", 30.0),
    }


def _gemma3(keys: Keys, values: dict[str, Any]) -> dict[str, Any]:
    layers = values["num_hidden_layers"]
    types = _layer_types(keys, layers, 6)
    window = keys.whole("attention.sliding_window", 0, least=0)
    softcap = "final_logit_softcapping"
    return {
        "query_pre_attn_scalar": _query_scale(keys, values, 62),
        "layer_types": types if window else ["full_attention"] * layers,
        "sliding_window": window or values["max_position_embeddings"],
        "rope_parameters": {
            "full_attention": values["rope_parameters"] | {"rope_theta": keys.real("rope.freq_base", 1e6)},
            "sliding_attention": {"rope_type": "default", "rope_theta": keys.real("rope.freq_base_swa", 10000.0)},
        },
    } | ({softcap: keys.real(softcap)} if keys.has(softcap) else {})


def _phi3(keys: Keys, values: dict[str, Any]) -> dict[str, Any]:
    original = keys.whole("rope.scaling.original_context_length", values["max_position_embeddings"])
    window = keys.whole("attention.sliding_window", 0, least=0)
    return {"original_max_position_embeddings": original, "sliding_window": window or None}


def _gpt2(keys: Keys, values: dict[str, Any]) -> dict[str, Any]:
    return {"n_inner": values["intermediate_size"]}


def _starcoder2(keys: Keys, values: dict[str, Any]) -> dict[str, Any]:
    return {"use_bias": _has(keys, ".attn_q.bias")}


def _stablelm(keys: Keys, values: dict[str, Any]) -> dict[str, Any]:
    keys.ignore("use_parallel_residual")  # true in files of models that have both norms; llama.cpp goes by the norms
    return {
        "use_qkv_bias": _has(keys, ".attn_q.bias"),
        "use_parallel_residual": not _has(keys, ".ffn_norm."),
        "qk_layernorm": _has(keys, ".attn_q_norm."),
    }


def _falcon(keys: Keys, values: dict[str, Any]) -> dict[str, Any]:
    layout = keys.text("tensor_data_layout", "jploski")
    if layout != "jploski":
        raise keys.fail("tensor_data_layout", "jploski", layout)
    heads, groups = values["num_attention_heads"], values["num_key_value_heads"]
    new = _has(keys, ".attn_norm_2.")
    if not new and groups not in (1, heads):
        raise keys.fail("attention.head_count_kv", f"1 or {heads} without a second norm", groups)
    return {
        "num_kv_heads": groups,
        "new_decoder_architecture": new,
        "num_ln_in_parallel_attn": 2 if new else None,
        "multi_query": groups == 1,
        "parallel_attn": not _has(keys, ".ffn_norm."),
        "bias": _has(keys, ".attn_qkv.bias"),
    }


def _bloom(keys: Keys, values: dict[str, Any]) -> dict[str, Any]:
    return {"seq_length": values["max_position_embeddings"]}


def _lfm2(keys: Keys, values: dict[str, Any]) -> dict[str, Any]:
    heads = keys.layers("attention.head_count_kv", values["num_hidden_layers"])
    some = {count for count in heads if count}
    if len(some) != 1:
        raise keys.fail("attention.head_count_kv", "one number for all layers with attention", heads)
    return {
        "num_key_value_heads": some.pop(),
        "layer_types": ["full_attention" if count else "conv" for count in heads],
        "block_auto_adjust_ff_dim": False,  # the stored width is the adjusted one
        "conv_L_cache": keys.whole("shortconv.l_cache"),
        "conv_bias": _has(keys, ".shortconv.in_proj.bias"),
    }


def _rotated_rows(name: str, count: int, config: Any) -> Rows | None:
    """Queries and keys of llama: a head's rows are stored as pairs that rotate, in transformers as two halves."""
    kind = name.split(".")[-2]
    if kind not in ("attn_q", "attn_k"):
        return None
    heads = config.num_attention_heads if kind == "attn_q" else config.num_key_value_heads
    return np.arange(count).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)


def _bloom_rows(name: str, count: int, config: Any) -> Rows | None:
    """All queries, all keys, all values are stored; in transformers they follow each other in each head."""
    if ".attn_qkv." not in name:
        return None
    return np.arange(count).reshape(3, config.n_head, -1).swapaxes(0, 1).reshape(-1)


def _falcon_rows(name: str, count: int, config: Any) -> Rows | None:
    """As BLOOM's, where each group of queries has one key and one value."""
    if ".attn_qkv." not in name:
        return None
    heads = config.num_attention_heads
    groups = config.num_kv_heads if config.new_decoder_architecture or not config.multi_query else 1
    size = config.hidden_size // heads
    if count != (heads + 2 * groups) * size:
        raise InputError(f"tensor {name!r}: expected {(heads + 2 * groups) * size} rows, got {count}")
    rows = np.arange(count)
    parts = np.split(rows, [heads * size, (heads + groups) * size])
    return np.concatenate([part.reshape(groups, -1) for part in parts], axis=1).reshape(-1)


FAMILIES = {
    "llama": Family("llama", _biases, _rotated_rows),
    "qwen2": Family("qwen2"),
    "qwen3": Family("qwen3", _attention_bias),
    "gemma": Family("gemma", norm_offset=1.0),
    "gemma2": Family("gemma2", _gemma2, norm_offset=1.0),
    "gemma3": Family("gemma3_text", _gemma3, norm_offset=1.0),
    "phi3": Family("phi3", _phi3),
    "gpt2": Family("gpt2", _gpt2),
    "starcoder2": Family("starcoder2", _starcoder2),
    "stablelm": Family("stablelm", _stablelm),
    "falcon": Family("falcon", _falcon, _falcon_rows),
    "bloom": Family("bloom", _bloom, _bloom_rows),
    "nemotron": Family("nemotron", _biases, norm_offset=1.0),
    "lfm2": Family("lfm2", _lfm2),
    "granite": Family("granite", _granite, _rotated_rows),
}
"""By general.architecture. Mistral models are of the first."""
