"""Configurations for the tests of `config_cases.py`, of families with parts that Llama's do not have."""

from typing import Any

_WINDOW = 16
_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 500.0,
    "factor": 4.0,
    "original_max_position_embeddings": 24,
    "attention_factor": 1.3,
}
_PROPORTIONAL = {"rope_type": "proportional", "rope_theta": 300.0, "partial_rotary_factor": 0.5}
_MIXED = {"sliding_window": _WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
_FIXED = {"alpha": 1000.0, "factor": 1.0}  # a dynamic rotation that does not change with the length
_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}


def _decoder(**values: Any) -> dict[str, Any]:
    sizes = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, **_HEADS}
    shared = {"max_position_embeddings": 128, "hidden_act": "gelu_new", "rms_norm_eps": 0.3, "rope_parameters": _ROPE}
    return {**sizes, **shared, "pad_token_id": 0, "tie_word_embeddings": True, **values}


def _without(values: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


_GPT = {"vocab_size": 64, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128, "layer_norm_epsilon": 0.3}
_GPT |= {"activation_function": "relu"}
_LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 3}
_ROUTED = {
    "hidden_act": "silu",
    "n_routed_experts": 6,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 48,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
    "n_group": 3,
    "topk_group": 2,
    "routed_scaling_factor": 1.7,
}
_LATENT = {"num_key_value_heads": 4, "kv_lora_rank": 24, "q_lora_rank": 40, "qk_rope_head_dim": 16}
_LATENT |= {"qk_nope_head_dim": 24, "v_head_dim": 32}
_MSCALE = _without(_ROPE, "attention_factor") | {"mscale": 0.7, "mscale_all_dim": 1.5}
_OWN_HEAD = {"tie_word_embeddings": False}
_LAYER_NORM = _without(_decoder(layer_norm_eps=0.3), "rms_norm_eps")
_MHA = _without(_LAYER_NORM, "num_key_value_heads")
_GEMMA4 = _without(_decoder(), "hidden_act")
_GEMMA4 |= {"num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2, "head_dim": 32}
_GEMMA4 |= {"sliding_window": _WINDOW, "num_kv_shared_layers": 2, "use_double_wide_mlp": True}
_GEMMA4 |= {"per_layer_config": {n: {"head_dim": 48, "num_key_value_heads": 1} for n in ("1", "3")}}
_GEMMA4 |= {"attention_k_eq_v": True, "final_logit_softcapping": 0.7, "hidden_activation": "relu"}
_GEMMA4 |= {"rope_parameters": {"full_attention": _PROPORTIONAL, "sliding_attention": _ROPE}}

FAMILIES: dict[str, list[dict[str, Any]]] = {
    "apertus": [_decoder(head_dim=32, attention_bias=True, hidden_act="xielu")],
    "bitnet": [_decoder(attention_bias=True)],
    "codegen": [{**_GPT, "rotary_dim": 8, "n_inner": 96, "tie_word_embeddings": True}],
    "cohere2": [
        _LAYER_NORM
        | _MIXED
        | {"head_dim": 32, "attention_bias": True, "logit_scale": 0.4, "tie_word_embeddings": False}
    ],
    "deepseek_v2": [
        _decoder(**{**_ROUTED, **_LATENT}, topk_method="group_limited_greedy", rope_parameters=_MSCALE),
    ],
    "deepseek_v3": [
        _decoder(**{**_ROUTED, **_LATENT}, rope_parameters=_MSCALE, norm_topk_prob=False, rope_interleave=False),
    ],
    "dots1": [
        _decoder(**{**_ROUTED, **_MIXED}, head_dim=32, attention_bias=True, norm_topk_prob=True),
        _decoder(**_ROUTED, head_dim=32, sliding_window=_WINDOW, max_window_layers=1),
    ],
    "ernie4_5": [_decoder(head_dim=32, use_bias=True, **_OWN_HEAD)],
    "exaone4": [
        _decoder(head_dim=32, **_MIXED),
        _decoder(head_dim=32, sliding_window=_WINDOW, sliding_window_pattern=2),
    ],
    "falcon": [
        _without(_MHA, "layer_norm_eps", "hidden_act", "intermediate_size")
        | {"layer_norm_epsilon": 0.3, "activation": "relu", "ffn_hidden_size": 96, "bias": True}
        | {"new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1},
        _without(_MHA, "layer_norm_eps", "hidden_act", "intermediate_size")
        | {"layer_norm_epsilon": 0.3, "activation": "relu", "ffn_hidden_size": 96, "multi_query": False}
        | {"parallel_attn": False, "tie_word_embeddings": False},
    ],
    "flex_olmo": [_decoder(attention_bias=True, num_experts=4, num_experts_per_tok=3) | {"norm_topk_prob": True}],
    "gemma4_text": [
        _GEMMA4 | {"vocab_size_per_layer_input": 64, "hidden_size_per_layer_input": 24},
        _without(_decoder(), "hidden_act")
        | {"head_dim": 32, "sliding_window": _WINDOW, "tie_word_embeddings": False, "hidden_size_per_layer_input": 0}
        | {"layer_types": ["sliding_attention", "full_attention"], "global_head_dim": 32}
        | {"rope_parameters": {"full_attention": _ROPE, "sliding_attention": _PROPORTIONAL}}
        | {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 3, "moe_intermediate_size": 48},
    ],
    "gemma4_unified_text": [
        _GEMMA4,
        _without(_decoder(), "hidden_act")
        | {"head_dim": 32, "sliding_window": _WINDOW, "tie_word_embeddings": False}
        | {"layer_types": ["sliding_attention", "full_attention"], "global_head_dim": 32}
        | {"rope_parameters": {"full_attention": _ROPE, "sliding_attention": _PROPORTIONAL}},
    ],
    "glm": [_decoder(head_dim=32, attention_bias=False)],
    "glm4": [_decoder(head_dim=32, attention_bias=False)],
    "gpt_bigcode": [{**_GPT, "n_inner": 96, "tie_word_embeddings": False, "multi_query": False}],
    "gpt_neo": [
        {"vocab_size": 64, "hidden_size": 64, "num_layers": 2, "num_heads": 4, "intermediate_size": 96}
        | {"attention_types": [[["global", "local"], 1]], "window_size": _WINDOW, "max_position_embeddings": 128}
        | {"activation_function": "relu", "layer_norm_epsilon": 0.3, "tie_word_embeddings": False}
    ],
    "gpt_oss": [
        _decoder(**_LOCAL_EXPERTS, **_MIXED, head_dim=32, hidden_act="silu", attention_bias=False)
        | {"swiglu_alpha": 1.2, "swiglu_limit": 0.5}
    ],
    "gptj": [{**_GPT, "rotary_dim": 8, "n_inner": 96, "tie_word_embeddings": True}],
    "granitemoe": [
        _decoder(**_LOCAL_EXPERTS, head_dim=32, attention_bias=True, embedding_multiplier=3.0, logits_scaling=2.0)
        | {"residual_multiplier": 0.4, "attention_multiplier": 0.3}
    ],
    "granitemoehybrid": [
        _decoder(**_LOCAL_EXPERTS, head_dim=32, attention_bias=True, embedding_multiplier=3.0, logits_scaling=2.0)
        | {"residual_multiplier": 0.4, "attention_multiplier": 0.3, "shared_intermediate_size": 80}
        | {"layer_types": ["linear_attention", "full_attention"], "position_embedding_type": "rope"}
        | {"mamba_n_heads": 8, "mamba_n_groups": 2, "mamba_d_state": 24, "mamba_expand": 3}
        | {"mamba_d_conv": 3, "mamba_conv_bias": False, "mamba_proj_bias": True},
    ],
    "helium": [_decoder(head_dim=32, num_attention_heads=2, attention_bias=True, mlp_bias=True)],
    "hunyuan_v1_dense": [
        _decoder(head_dim=32, attention_bias=True),
        _decoder(head_dim=32, rope_parameters={"rope_type": "dynamic", "rope_theta": 500.0} | _FIXED),
    ],
    "lfm2": [
        _without(_decoder(head_dim=32, norm_eps=0.3, **_OWN_HEAD), "rms_norm_eps", "hidden_act")
        | {"layer_types": ["conv", "full_attention"], "conv_bias": True, "conv_L_cache": 4, "block_multiple_of": 40}
        | {"block_ffn_dim_multiplier": 1.5},
        _without(_decoder(norm_eps=0.3), "rms_norm_eps", "hidden_act")
        | {"full_attn_idxs": [1], "block_auto_adjust_ff_dim": False},
    ],
    "lfm3": [
        _without(_decoder(head_dim=32, norm_eps=0.3, attention_bias=True, **_OWN_HEAD), "rms_norm_eps", "hidden_act")
        | {"num_hidden_layers": 3, "layer_types": ["conv", "sliding_attention", "full_attention"]}
        | {"rope_parameters": {"full_attention": _PROPORTIONAL, "sliding_attention": _ROPE}}
        | {"conv_bias": True, "conv_L_cache": 4, "sliding_window": _WINDOW},
        _without(_decoder(norm_eps=0.3), "rms_norm_eps", "hidden_act")
        | {"layer_types": ["full_attention", "conv"], "use_sandwich_norm": False, "use_attention_gate": False}
        | {"rope_parameters": {"full_attention": _ROPE, "sliding_attention": _PROPORTIONAL}},
    ],
    "ministral3": [
        _decoder(head_dim=32, sliding_window=_WINDOW, rope_parameters=_ROPE | {"llama_4_scaling_beta": 0.5})
    ],
    "mpt": [
        {"vocab_size": 64, "d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 128, "layer_norm_epsilon": 0.3}
        | {"attn_config": {"clip_qkv": 0.5, "softmax_scale": 0.3}, "tie_word_embeddings": False}
    ],
    "nanochat": [_decoder(head_dim=32, attention_bias=True, hidden_act="gelu", final_logit_softcapping=0.7)],
    "olmo3": [
        _decoder(**_MIXED, head_dim=32, attention_bias=True)
        | {
            "rope_parameters": {
                "full_attention": _ROPE,
                "sliding_attention": {"rope_type": "default", "rope_theta": 900.0},
            }
        }
    ],
    "olmoe": [_decoder(attention_bias=True, num_experts=4, num_experts_per_tok=3, norm_topk_prob=True, clip_qkv=0.3)],
    "openai-gpt": [_without(_GPT, "activation_function") | {"afn": "relu", "tie_word_embeddings": False}],
    "persimmon": [_MHA | {"rope_parameters": _ROPE | {"partial_rotary_factor": 0.5}}],
    "qwen3_5_text": [
        _decoder(head_dim=32, attention_bias=True, rope_parameters=_ROPE | {"partial_rotary_factor": 0.5})
        | {"layer_types": ["linear_attention", "full_attention"], "linear_conv_kernel_dim": 3}
        | {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16}
        | {"linear_value_head_dim": 24},
    ],
    "seed_oss": [_decoder(head_dim=32, attention_bias=False, attention_out_bias=True)],
    "youtu": [_decoder(**_LATENT, rope_parameters=_MSCALE, rope_interleave=False, pad_token_id=None, **_OWN_HEAD)],
}
FAMILY_OTHER: dict[str, Any] = {
    "activation_function": "tanh",
    "attention_types": [[["local", "global"], 1]],
    "attn_config": {},
    "block_auto_adjust_ff_dim": True,
    "block_ffn_dim_multiplier": 0.75,
    "block_multiple_of": 32,
    "conv_L_cache": 2,
    "ffn_hidden_size": 80,
    "first_k_dense_replace": 0,
    "full_attn_idxs": [0, 1],
    "hidden_size_per_layer_input": 16,
    "kv_lora_rank": 32,
    "max_seq_len": 256,
    "n_routed_experts": 9,
    "n_shared_experts": 1,
    "mamba_expand": 2,
    "mamba_n_groups": 4,
    "mamba_n_heads": 4,
    "num_kv_heads": 4,
    "num_kv_shared_layers": 0,
    "num_layers": 24,
    "num_ln_in_parallel_attn": 2,
    "per_layer_config": {"1": {"head_dim": 32, "num_key_value_heads": 2}, "3": {"num_key_value_heads": 1}},
    "q_lora_rank": 48,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 32,
    "rotary_dim": 16,
    "sliding_window_pattern": 1,
    "swiglu_alpha": 1.7,
    "swiglu_limit": 7.0,
    "top_k_experts": 1,
    "topk_group": 1,
    "topk_method": "greedy",
    "v_head_dim": 16,
    "vocab_size_per_layer_input": 80,
    "window_size": 5,
}
