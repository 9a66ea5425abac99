"""The model families that a GGUF file can be of: what each has of its own in configuration and in stored rows.

llama.cpp stores some weights otherwise than transformers: rows of queries and keys in the order of its rotation, fused
projections by kind and not by head, and norms with the one that the model adds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from dualbinary import InputError
from importer.readers.gguf.keys import Keys

__all__ = ["FAMILIES", "Family"]

_LAYER_TABLE = "per_layer_token_embd.weight"
Rows = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Family:
    """An architecture.

    Attributes:
        model_type: of transformers.
        values: takes the metadata and what all families have, and gives what config.json has besides.
        rows: takes the name of a tensor, its number of rows and the configuration, and gives the number of the stored
            row for each row in transformers, or None where they are the same.
        columns: the same for the columns of matrices, with their number.
        norm_offset: what stored weights of norms have more than in transformers.
        plain: takes the name of a tensor of plain numbers and its values, and gives those of transformers.
        names: parts of names in transformers by what the library gguf calls them, where its table lacks them.
        joined: in the same way, modules whose rows are those of several tensors, one after the other.
        unread: takes the name of a tensor and the configuration, and tells whether nothing reads it.
        unread_note: what such tensors are.
        own_keys: metadata that all families have and that `values` reads, because it may differ by layer.
    """

    model_type: str
    values: Callable[[Keys, dict[str, Any]], dict[str, Any]] = lambda keys, values: {}
    rows: Callable[[str, int, Any], Rows | None] = lambda name, count, config: None
    columns: Callable[[str, int, Any], Rows | None] = lambda name, count, config: None
    norm_offset: float = 0.0
    plain: Callable[[str, np.ndarray], np.ndarray] = lambda name, values: values
    names: Mapping[str, str] = field(default_factory=dict[str, str])
    joined: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    unread: Callable[[str, Any], bool] = lambda name, config: False
    unread_note: str = ""
    own_keys: tuple[str, ...] = ()


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


def _smollm3(keys: Keys, values: dict[str, Any]) -> dict[str, Any]:
    """llama.cpp leaves the rotation out of every fourth layer, whatever a file says."""
    return _biases(keys, values) | {"no_rope_layer_interval": 4, "use_sliding_window": False}


def _bitnet(keys: Keys, values: dict[str, Any]) -> dict[str, Any]:
    """llama.cpp computes the first models of this name, which have SiLU; later ones have another architecture."""
    return _attention_bias(keys, values) | {"hidden_act": "silu"}


def _gemma4(keys: Keys, values: dict[str, Any]) -> dict[str, Any]:
    layers, tensors = values["num_hidden_layers"], keys.container.tensors
    types = _layer_types(keys, layers, 6)
    shared = keys.whole("attention.shared_kv_layers", 0, least=0)
    groups = dict(zip(types, _by_layer(keys, "attention.head_count_kv", layers), strict=True))
    widths = _by_layer(keys, "feed_forward_length", layers)
    inputs = keys.whole("embedding_length_per_layer_input", 0, least=0)
    full = [layer for layer, kind in enumerate(types[: layers - shared]) if kind == "full_attention"]
    keys.ignore("rope.dimension_count_swa", "attention.value_length_swa")
    softcap = "final_logit_softcapping"
    return {
        "layer_types": types,
        "num_kv_shared_layers": shared,
        "head_dim": keys.whole("attention.key_length_swa", values["head_dim"]),
        "num_key_value_heads": groups.get("sliding_attention", groups["full_attention"]),
        "per_layer_config": {
            layer: {"head_dim": values["head_dim"], "num_key_value_heads": groups["full_attention"]}
            for layer, kind in enumerate(types)
            if kind == "full_attention"
        },
        "attention_k_eq_v": any(f"blk.{layer}.attn_v.weight" not in tensors for layer in full),
        "intermediate_size": widths[0],
        "use_double_wide_mlp": widths[-1] == 2 * widths[0],
        "hidden_size_per_layer_input": inputs,
        "vocab_size_per_layer_input": tensors[_LAYER_TABLE].shape[0] if _LAYER_TABLE in tensors else 1,
        "sliding_window": keys.whole("attention.sliding_window"),
        "rope_parameters": {
            "full_attention": values["rope_parameters"],
            "sliding_attention": {"rope_type": "default", "rope_theta": keys.real("rope.freq_base_swa", 10000.0)},
        },
    } | ({softcap: keys.real(softcap)} if keys.has(softcap) else {})


def _by_layer(keys: Keys, name: str, layers: int) -> list[int]:
    """The value of each layer, of one for all or of a list."""
    return keys.layers(name, layers) if keys.is_list(name) else [keys.whole(name)] * layers


def _block(name: str) -> int:
    """The number of a tensor's layer, -1 for one of no layer."""
    number = name.removeprefix("blk.").partition(".")[0]
    return int(number) if number.isdecimal() else -1


def _is_of_shared_keys(name: str, config: Any) -> bool:
    own = config.num_hidden_layers - config.num_kv_shared_layers
    return _block(name) >= own and (".attn_k" in name or ".attn_v" in name)


def _qwen35(keys: Keys, values: dict[str, Any]) -> dict[str, Any]:
    layers = values["num_hidden_layers"] - keys.whole("nextn_predict_layers", 0, least=0)
    heads, inner = keys.whole("ssm.time_step_rank"), keys.whole("ssm.inner_size")
    keys.ignore("full_attention_interval", "attention.recurrent_layers")  # tensors say it
    keys.ignore("rope.dimension_sections")  # of positions in images; in a text all are one
    scans = [f"blk.{layer}.ssm_a" in keys.container.tensors for layer in range(layers)]
    return {
        "num_hidden_layers": layers,
        "layer_types": ["linear_attention" if scan else "full_attention" for scan in scans],
        "attention_bias": _has(keys, ".attn_q.bias"),
        "linear_conv_kernel_dim": keys.whole("ssm.conv_kernel"),
        "linear_key_head_dim": keys.whole("ssm.state_size"),
        "linear_num_key_heads": keys.whole("ssm.group_count"),
        "linear_num_value_heads": heads,
        "linear_value_head_dim": inner // heads,
    }


def _granite_hybrid(keys: Keys, values: dict[str, Any]) -> dict[str, Any]:
    counts = keys.layers("attention.head_count_kv", values["num_hidden_layers"])
    heads, inner = keys.whole("ssm.time_step_rank"), keys.whole("ssm.inner_size")
    rotates = keys.flag("rope.scaling.finetuned", True)
    keys.ignore("expert_shared_feed_forward_length", "rope.freq_base", "rope.dimension_count")
    gate = keys.container.tensors.get("blk.0.ffn_gate.weight")
    return _granite(keys, values) | {
        "num_key_value_heads": max(counts),
        "layer_types": ["attention" if count else "mamba" for count in counts],
        "num_local_experts": 0,
        "shared_intermediate_size": gate.shape[0] if gate is not None else values["intermediate_size"],
        "position_embedding_type": "rope" if rotates else None,
        "mamba_n_heads": heads,
        "mamba_n_groups": keys.whole("ssm.group_count"),
        "mamba_d_state": keys.whole("ssm.state_size"),
        "mamba_d_head": inner // heads,
        "mamba_d_conv": keys.whole("ssm.conv_kernel"),
        "mamba_expand": inner // values["hidden_size"],
        "mamba_conv_bias": _has(keys, ".ssm_conv1d.bias"),
        "mamba_proj_bias": _has(keys, ".ssm_in.bias"),
    }


def _decay(name: str, values: np.ndarray) -> np.ndarray:
    """The logarithm of a scan's decay; llama.cpp stores the decay, below 0."""
    return np.log(-values) if name.endswith(".ssm_a") else values


def _tiled(config: Any, start: int, size: int) -> Rows:
    """Rows from `start` on of heads of values: stored are the first heads of all keys, then the second ones."""
    keys, heads = config.linear_num_key_heads, config.linear_num_value_heads
    heads_first = np.arange(heads * size).reshape(heads // keys, keys, size)
    return np.concatenate([np.arange(start), start + heads_first.swapaxes(0, 1).reshape(-1)])


def _qwen35_rows(name: str, count: int, config: Any) -> Rows | None:
    """Values of linear attention, and what belongs to their heads, in the order of `_tiled`."""
    kind = name.split(".")[2] if name.startswith("blk.") else ""
    size, before = config.linear_value_head_dim, 2 * config.linear_num_key_heads * config.linear_key_head_dim
    if kind in ("attn_qkv", "ssm_conv1d"):
        return _tiled(config, before, size)
    if kind == "attn_gate":
        return _tiled(config, 0, size)
    return _tiled(config, 0, 1) if kind in ("ssm_alpha", "ssm_beta", "ssm_a", "ssm_dt") else None


def _qwen35_columns(name: str, count: int, config: Any) -> Rows | None:
    return _tiled(config, 0, config.linear_value_head_dim) if ".ssm_out." in name else None


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
    "qwen35": Family(
        "qwen3_5_text",
        _qwen35,
        _qwen35_rows,
        _qwen35_columns,
        norm_offset=1.0,
        plain=_decay,
        names={"linear_attn.dt_bias": "linear_attn.dt_proj.bias"},
        unread=lambda name, config: _block(name) >= config.num_hidden_layers,
        unread_note="layers that predict more than one token",
    ),
    "granitehybrid": Family(
        "granitemoehybrid",
        _granite_hybrid,
        _rotated_rows,
        plain=_decay,
        names={"mamba.dt_bias": "mamba.dt_proj.bias", "shared_mlp.output_linear": "mlp.down_proj"},
        joined={"shared_mlp.input_linear": ("mlp.gate_proj", "mlp.up_proj")},
        own_keys=("attention.head_count_kv",),
    ),
    "lfm2": Family("lfm2", _lfm2, own_keys=("attention.head_count_kv",)),
    "granite": Family("granite", _granite, _rotated_rows),
    "smollm3": Family("smollm3", _smollm3, _rotated_rows),
    "hunyuan-dense": Family("hunyuan_v1_dense", _attention_bias),
    "bitnet": Family(
        "bitnet",
        _bitnet,
        names={"self_attn.attn_sub_norm": "self_attn.inner_attn_ln", "mlp.ffn_sub_norm": "mlp.ffn_layernorm"},
    ),
    "gemma4": Family(
        "gemma4_text",
        _gemma4,
        names={"layer_scalar": "layer_scalar.weight"},
        unread=_is_of_shared_keys,
        unread_note="keys and values of layers that have those of another layer",
        own_keys=("feed_forward_length", "attention.head_count_kv"),
    ),
}
"""By general.architecture. Mistral models are of the first."""
