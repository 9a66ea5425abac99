"""Values of config.json that make a difference, for tests of what an export does with each of them.

`CASES` are configurations of tiny models, by the model type as transformers reads it: together they move every field
that the export honors. `OTHER` has one more value for fields whose default would not tell the two apart.
"""

import dataclasses
from typing import Any

import transformers

from tests.support.family_cases import FAMILIES, FAMILY_OTHER

WINDOW = 16
SWITCH = 40  # of LongRoPE: sequences longer than this have other frequencies
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 500.0,
    "factor": 4.0,
    "original_max_position_embeddings": 24,
    "attention_factor": 1.3,
    "beta_fast": 3.0,
    "beta_slow": 0.5,
    "truncate": False,
}
_PLAIN = {"rope_type": "default", "rope_theta": 500.0}
_DYNAMIC = {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 4.0}
_LINEAR = {"rope_type": "linear", "rope_theta": 500.0, "factor": 3.0}
_LONG = {
    "rope_type": "longrope",
    "rope_theta": 500.0,
    "original_max_position_embeddings": SWITCH,
    "factor": 8.0,
    "short_factor": [1.0 + i / 8 for i in range(8)],
    "long_factor": [2.0 + i for i in range(8)],
}
_SHORT = _LONG | {"original_max_position_embeddings": 100, "attention_factor": 1.4}  # beyond the sequences of tests
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "original_max_position_embeddings": 48,
    "low_freq_factor": 1.0,
    "high_freq_factor": 3.0,
}
_MSCALE = {key: value for key, value in _YARN.items() if key != "attention_factor"} | {
    "mscale": 0.7,
    "mscale_all_dim": 1.5,
}
_DYNAMIC = {"rope_type": "dynamic", "rope_theta": 500.0, "factor": 4.0}
_PROPORTIONAL = {"rope_type": "proportional", "rope_theta": 500.0, "factor": 2.0, "partial_rotary_factor": 0.5}
_MIXED = ["sliding_attention", "full_attention"]
_SIZES = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def _llama(**values: Any) -> dict[str, Any]:
    shared = {"num_key_value_heads": 2, "max_position_embeddings": 128, "hidden_act": "gelu_new", "rms_norm_eps": 0.3}
    return {**_SIZES, **shared, "pad_token_id": 0, "tie_word_embeddings": True, "rope_parameters": _YARN, **values}


def _without(values: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


_LAYER_NORM = _without(_llama(layer_norm_eps=0.3), "rms_norm_eps")
_GEMMA = _without(_llama(head_dim=32, hidden_activation="relu", tie_word_embeddings=False), "hidden_act")
_CAPPED = {"query_pre_attn_scalar": 40, "sliding_window": WINDOW, "layer_types": _MIXED, "final_logit_softcapping": 0.7}
_QWEN = _llama(head_dim=32, use_sliding_window=True, sliding_window=WINDOW, layer_types=_MIXED)
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 3, "moe_intermediate_size": 48, "norm_topk_prob": True}
_OPT = {"vocab_size": 64, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 96}
_BIASED = {"attention_bias": True, "mlp_bias": True}

CASES: dict[str, list[dict[str, Any]]] = {
    "arcee": [_llama(head_dim=32, **_BIASED)],
    "bloom": [
        {"vocab_size": 64, "hidden_size": 64, "n_layer": 2, "n_head": 4, "layer_norm_epsilon": 0.3}
        | {"tie_word_embeddings": False, "pretraining_tp": 2}
    ],
    "cohere": [
        _LAYER_NORM | {"head_dim": 32, "attention_bias": True, "logit_scale": 0.4, "tie_word_embeddings": False}
    ],
    "gemma": [_without(_GEMMA, "hidden_activation") | {"hidden_act": "relu", "attention_bias": True}],
    "gemma2": [_GEMMA | _CAPPED | {"attention_bias": True, "attn_logit_softcapping": 2.0}],
    "vaultgemma": [_GEMMA | _CAPPED | {"attention_bias": True, "attn_logit_softcapping": 2.0}],
    "gemma3_text": [
        _GEMMA | _CAPPED | {"attention_bias": True, "rope_parameters": {"full_attention": _YARN, _MIXED[0]: _LINEAR}}
    ],
    "gpt2": [
        {"vocab_size": 64, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_inner": 64, "n_positions": 128}
        | {"activation_function": "relu", "layer_norm_epsilon": 0.3, "tie_word_embeddings": False}
        | {"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True},
    ],
    "gpt_neox": [
        _without(_LAYER_NORM, "num_key_value_heads", "tie_word_embeddings")
        | {"use_parallel_residual": False, "attention_bias": False, "tie_word_embeddings": True}
        | {"rope_parameters": _YARN | {"partial_rotary_factor": 0.5}}
    ],
    "granite": [
        _llama(head_dim=32, **_BIASED, embedding_multiplier=3.0, logits_scaling=2.0)
        | {"residual_multiplier": 0.4, "attention_multiplier": 0.3}
    ],
    "hyperclovax": [
        _llama(head_dim=32, **_BIASED, embedding_multiplier=3.0, logits_scaling=2.0)
        | {"residual_multiplier": 0.4, "attention_multiplier": 0.3},
        _llama(use_post_norm=False, embedding_multiplier=3.0),
    ],
    "cwm": [_llama(head_dim=32, mlp_bias=True, sliding_window=WINDOW, layer_types=_MIXED)],
    "llama": [_llama(head_dim=32, **_BIASED)]
    + [_llama(rope_parameters=rope) for rope in (_LLAMA3, _LINEAR, _LONG, _SHORT, _MSCALE, _PROPORTIONAL)]
    + [_llama(rope_parameters=_DYNAMIC, max_position_embeddings=64)],  # as long as the sequences of tests
    "ministral": [_llama(head_dim=32, sliding_window=WINDOW, layer_types=_MIXED)],
    "mistral": [_llama(head_dim=32, sliding_window=WINDOW)],
    "mixtral": [_llama(head_dim=32, sliding_window=WINDOW, num_local_experts=4, num_experts_per_tok=3)],
    "nemotron": [
        _without(_llama(head_dim=32, norm_eps=0.3, **_BIASED), "rms_norm_eps")
        | {"rope_parameters": _YARN | {"partial_rotary_factor": 0.25}}
    ],
    "olmo": [_without(_llama(head_dim=32, attention_bias=True, clip_qkv=0.3), "rms_norm_eps")],
    "olmo2": [_llama(head_dim=32, attention_bias=True)],
    "opt": [_OPT | {"max_position_embeddings": 128, "activation_function": "gelu", "tie_word_embeddings": False}],
    "phi": [_LAYER_NORM | {"head_dim": 32, "rope_parameters": _YARN | {"partial_rotary_factor": 0.25}}],
    "phi3": [
        _llama(sliding_window=WINDOW, rope_parameters=_LONG, original_max_position_embeddings=SWITCH),
        _llama(
            head_dim=32, rope_parameters={"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5}
        ),
    ],
    "qwen2": [_QWEN, _without(_QWEN, "layer_types") | {"max_window_layers": 1}],
    "qwen2_moe": [
        _without(_QWEN | _EXPERTS | {"shared_expert_intermediate_size": 32, "qkv_bias": False}, "intermediate_size"),
        _without(_QWEN | _EXPERTS | {"shared_expert_intermediate_size": 32}, "layer_types") | {"max_window_layers": 1},
    ],
    "qwen3": [_QWEN | {"attention_bias": True}, _without(_QWEN, "layer_types") | {"max_window_layers": 1}],
    "qwen3_moe": [_without(_QWEN | _EXPERTS | {"attention_bias": True}, "layer_types", "intermediate_size")],
    "smollm3": [
        _QWEN | _BIASED | {"no_rope_layers": [0, 1], "tie_word_embeddings": False},
        _without(_QWEN, "layer_types") | {"no_rope_layer_interval": 2},
    ],
    "stablelm": [
        _LAYER_NORM
        | {"use_qkv_bias": True, "use_parallel_residual": True, "tie_word_embeddings": True}
        | {"rope_parameters": _YARN | {"partial_rotary_factor": 0.5}}
    ],
    "starcoder2": [
        _without(_llama(head_dim=32, norm_epsilon=0.3, use_bias=False, sliding_window=WINDOW), "rms_norm_eps")
        | {"tie_word_embeddings": False}
    ],
}

CASES |= FAMILIES

# Values that differ from those of the cases where the class has no default, or one that means the same.
OTHER: dict[str, Any] = {
    "alpha": 5.0,
    "attention_factor": 0.8,
    "beta_fast": 1.2,
    "beta_slow": 1.0,
    "factor": 2.0,
    "head_dim": 16,
    "high_freq_factor": 6.0,
    "layer_types": ["full_attention", "sliding_attention"],
    "long_factor": [5.0] * 8,
    "low_freq_factor": 2.0,
    "max_window_layers": 0,
    "mscale": 1.1,
    "mscale_all_dim": 0.4,
    "n_inner": 80,
    "no_rope_layer_interval": 1,
    "no_rope_layers": [1, 1],
    "num_experts": 5,
    "num_experts_per_tok": 1,
    "num_key_value_heads": 1,
    "num_local_experts": 5,
    "original_max_position_embeddings": 30,
    "partial_rotary_factor": 1.0,
    "rope_theta": 100.0,
    "rope_type": "default",
    "short_factor": [3.0] * 8,
    "sliding_window": 5,
    "truncate": True,
} | FAMILY_OTHER
# Values that are refused, of fields that have some that pass; activations have their own.
REFUSED: dict[str, Any] = {
    "alibi": True,
    "head_dim": 48,
    "num_key_value_heads": 1,
    "persimmon.qk_layernorm": False,
    "scale_attn_weights": False,
    "attention_bias": True,
    "mlp_bias": True,
    "_remove_final_layer_norm": True,
    "add_cross_attention": True,
    "apply_residual_connection_post_layernorm": True,
    "architectures": ["LlamaForSequenceClassification"],
    "decoder_sparse_step": 2,
    "do_layer_norm_before": False,
    "enable_bias": False,
    "is_causal": False,
    "layer_norm_elementwise_affine": False,
    "mlp_only_layers": [1],
    "per_layer_config": {"0": {"intermediate_size": 48}},
    "qk_layernorm": True,
    "slow_but_exact": True,
    "time_step_limit": [0.0, 0.1],
    "tie_word_embeddings": True,
    "use_bidirectional_attention": True,
    "gemma4_text.use_bidirectional_attention": "all",
    "gemma4_unified_text.use_bidirectional_attention": "all",
    "use_qk_norm": True,
    "word_embed_proj_dim": 32,
}
REFUSED_ACTIVATION = "laplace"


def fields_of(model_type: str) -> dict[str, Any]:
    """Fields of the configuration class, without those of the class that all inherit from, and their defaults."""
    every = {field.name for field in dataclasses.fields(transformers.PretrainedConfig)}
    kind = transformers.CONFIG_MAPPING[model_type]
    return {field.name: field.default for field in dataclasses.fields(kind) if field.name not in every}


def unread_value(name: str, default: Any) -> Any:
    """A value, other than the default, of a field that nothing reads."""
    texts = {"hidden_act": "relu", "init_device": "meta", "initializer_range": 0.5, "embedding_initializer_range": 0.5}
    texts |= {
        "logit_scale": 0.5,
        "norm_type": "rms_norm",
        "dtype": "float16",
        "problem_type": "regression",
        "transformers_version": "4.1.0",
        "summary_type": "first",
    }
    if name in texts:
        return texts[name]
    if name in ("id2label", "label2id"):
        return {"0": "a"} if name == "id2label" else {"a": 0}
    if name == "return_dict":
        return True  # the default: with another one models of transformers 5 do not run
    if isinstance(default, bool):
        return not default
    if isinstance(default, float) or name.endswith("softcapping"):
        return 0.5
    return "tanh" if name == "summary_activation" else 2


def strays_of(model_type: str) -> dict[str, Any]:
    """Values of other types' fields, which a configuration of this type might still carry and nothing reads."""
    kind = transformers.CONFIG_MAPPING[model_type]
    known = {*fields_of(model_type), *kind.attribute_map, *kind.attribute_map.values(), *_SIZES, "head_dim"}
    # Names that transformers reads of every configuration, or that make a Mistral a Ministral.
    known |= {"rope_parameters", "partial_rotary_factor", "original_max_position_embeddings", "per_layer_config"}
    known |= {"n_embd", "n_layer", "n_head", "n_positions"} | ({"layer_types"} if model_type == "mistral" else set())
    values: dict[str, Any] = {}
    for cases in CASES.values():
        values |= {name: value for name, value in cases[0].items() if name not in known}
    return values | ({"sliding_window": 5} if "sliding_window" not in known else {})
