"""Tiny models whose GGUF files tests write: configurations, and what their metadata says besides that of all."""

from typing import Any

import numpy as np

_COMMON = {
    "vocab_size": 256,
    "hidden_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "intermediate_size": 160,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_ROPE = {"rope_type": "default", "rope_theta": 5000.0}
_OF_GPT = {"vocab_size": 256, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}
_FALCON = {name: _COMMON[name] for name in _COMMON if name not in ("num_key_value_heads", "intermediate_size")}
WINDOW = 8  # shorter than a prompt, so that it shows

MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llama": ("llama", _COMMON | {"rope_parameters": _ROPE}, {"rope.freq_base": 5000.0}),
    "llama of wide heads": (
        "llama",
        _COMMON | {"head_dim": 48, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
        {"attention.key_length": 48, "attention.value_length": 48, "rope.dimension_count": 48},
    ),
    "llama, folded": ("llama", _COMMON | {"intermediate_size": 256}, {}),
    "llama, folded and tied": ("llama", _COMMON | {"intermediate_size": 256, "tie_word_embeddings": True}, {}),
    "llama, linear": (
        "llama",
        _COMMON | {"rope_parameters": _ROPE | {"rope_type": "linear", "factor": 4.0}},
        {"rope.freq_base": 5000.0, "rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
    ),
    "llama 3": (
        "llama",
        _COMMON
        | {"max_position_embeddings": 8192}
        | {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 5e5,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 2048,
            }
        },
        {"rope.freq_base": 5e5},
    ),
    "granite": (
        "granite",
        _COMMON
        | {
            "attention_multiplier": 0.25,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.5,
            "logits_scaling": 2.0,
        },
        {"attention.scale": 0.25, "embedding_scale": 3.0, "residual_scale": 0.5, "logit_scale": 2.0},
    ),
    "qwen2": ("qwen2", _COMMON | {"rope_parameters": _ROPE}, {"rope.freq_base": 5000.0}),
    "qwen3": ("qwen3", _COMMON | {"head_dim": 48}, {"attention.key_length": 48, "attention.value_length": 48}),
    "qwen3, folded": (
        "qwen3",
        _COMMON | {"head_dim": 32, "intermediate_size": 256},
        {"attention.key_length": 32, "attention.value_length": 32},
    ),
    "qwen3, yarn": (
        "qwen3",
        _COMMON
        | {"head_dim": 32}
        | {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 16,
                "beta_fast": 16.0,
                "beta_slow": 2.0,
            }
        },
        {"attention.key_length": 32, "rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}
        | {"rope.scaling.original_context_length": 16}
        | {"rope.scaling.yarn_beta_fast": 16.0, "rope.scaling.yarn_beta_slow": 2.0},
    ),
    "gemma": ("gemma", _COMMON | {"head_dim": 48}, {"attention.key_length": 48, "attention.value_length": 48}),
    "gemma2": (
        "gemma2",
        _COMMON
        | {"head_dim": 48, "query_pre_attn_scalar": 48, "sliding_window": WINDOW}
        | {"attn_logit_softcapping": 20.0, "final_logit_softcapping": 10.0},
        {"attention.key_length": 48, "attention.value_length": 48, "attention.sliding_window": WINDOW}
        | {"attn_logit_softcapping": 20.0, "final_logit_softcapping": 10.0},
    ),
    "gemma3": (
        "gemma3_text",
        _COMMON
        | {"head_dim": 48, "query_pre_attn_scalar": 48, "sliding_window": WINDOW, "num_hidden_layers": 7}
        | {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 50000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            }
        },
        {"attention.key_length": 48, "attention.value_length": 48, "attention.sliding_window": WINDOW}
        | {"rope.freq_base": 50000.0, "rope.scaling.type": "linear", "rope.scaling.factor": 8.0},
    ),
    "gemma3, listed": (
        "gemma3_text",
        _COMMON
        | {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": WINDOW, "final_logit_softcapping": 10.0}
        | {"layer_types": ["full_attention", "sliding_attention"]}
        | {
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 50000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
            }
        },
        {"attention.sliding_window": WINDOW, "attention.sliding_window_pattern": [False, True]}
        | {"final_logit_softcapping": 10.0, "rope.freq_base": 50000.0, "rope.freq_base_swa": 500.0},
    ),
    "phi3": (
        "phi3",
        _COMMON
        | {"sliding_window": WINDOW, "tie_word_embeddings": True}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0, "partial_rotary_factor": 0.75}},
        {"rope.freq_base": 5000.0, "rope.dimension_count": 24, "attention.sliding_window": WINDOW}
        | {"rope.scaling.original_context_length": 64},
    ),
    "phi3, longrope": (
        "phi3",
        _COMMON
        | {"original_max_position_embeddings": 16}
        | {
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "partial_rotary_factor": 1.0,
                "long_factor": [1.0 + index / 4 for index in range(16)],
                "short_factor": [1.0 + index / 16 for index in range(16)],
                "original_max_position_embeddings": 16,
            },
        },
        {"rope.scaling.attn_factor": (1 + np.log(4) / np.log(16)) ** 0.5, "attention.sliding_window": 0}
        | {"rope.scaling.original_context_length": 16},
    ),
    "gpt2": (
        "gpt2",
        _OF_GPT | {"n_embd": 128, "n_layer": 2, "n_head": 4, "n_positions": 64, "n_inner": 160},
        {},
    ),
    "starcoder2": ("starcoder2", _COMMON | {"rope_parameters": _ROPE}, {"rope.freq_base": 5000.0}),
    "stablelm": (
        "stablelm",
        _COMMON
        | {"use_qkv_bias": True}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0, "partial_rotary_factor": 0.5}},
        {"rope.freq_base": 5000.0, "rope.dimension_count": 16, "use_parallel_residual": False},
    ),
    "falcon of one key": ("falcon", _FALCON | {"ffn_hidden_size": 512}, {"attention.head_count_kv": 1}),
    "falcon of groups": (
        "falcon",
        _FALCON | {"ffn_hidden_size": 512, "new_decoder_architecture": True, "num_kv_heads": 2},
        {},
    ),
    "bloom": ("bloom", {"vocab_size": 256, "hidden_size": 128, "n_layer": 2, "n_head": 4}, {}),
    "nemotron": (
        "nemotron",
        _COMMON
        | {
            "head_dim": 32,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
        },
        {"rope.dimension_count": 16, "attention.layer_norm_rms_epsilon": 1e-5},
    ),
    "smollm3": (
        "smollm3",
        _COMMON | {"num_hidden_layers": 4, "attention_bias": True, "rope_parameters": _ROPE},
        {"rope.freq_base": 5000.0},
    ),
    "hunyuan-dense": (
        "hunyuan_v1_dense",
        _COMMON | {"head_dim": 48, "attention_bias": True, "tie_word_embeddings": True, "rope_parameters": _ROPE},
        {"rope.freq_base": 5000.0, "attention.key_length": 48, "attention.value_length": 48}
        | {"rope.scaling.type": "none", "rope.scaling.factor": 1.0},
    ),
    "bitnet": (
        "bitnet",
        _COMMON | {"hidden_act": "silu", "tie_word_embeddings": True, "rope_parameters": _ROPE},
        {"rope.freq_base": 5000.0, "rope.scaling.type": "linear", "rope.scaling.factor": 1.0},
    ),
    "gemma4": (
        "gemma4_text",
        _COMMON
        | {"num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2, "head_dim": 32}
        | {"global_head_dim": 64, "num_global_key_value_heads": 1, "attention_k_eq_v": True, "num_kv_shared_layers": 2}
        | {"use_double_wide_mlp": True, "sliding_window": WINDOW, "final_logit_softcapping": 10.0}
        | {"vocab_size_per_layer_input": 256, "hidden_size_per_layer_input": 32}
        | {
            "rope_parameters": {
                "full_attention": {"rope_type": "proportional", "rope_theta": 5e4, "partial_rotary_factor": 0.25},
                "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
            }
        },
        {"attention.key_length": 64, "attention.value_length": 64, "attention.key_length_swa": 32}
        | {"attention.value_length_swa": 32, "rope.dimension_count": 64, "rope.dimension_count_swa": 32}
        | {"attention.head_count_kv": [2, 1, 2, 1], "feed_forward_length": [160, 160, 320, 320]}
        | {"attention.sliding_window": WINDOW, "attention.sliding_window_pattern": [True, False] * 2}
        | {"attention.shared_kv_layers": 2, "embedding_length_per_layer_input": 32, "final_logit_softcapping": 10.0}
        | {"rope.freq_base": 5e4, "rope.freq_base_swa": 500.0},
    ),
    "gemma4, plain": (
        "gemma4_text",
        _COMMON
        | {"head_dim": 32, "global_head_dim": 32, "hidden_size_per_layer_input": 0, "tie_word_embeddings": False}
        | {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]},
        {"attention.key_length": 32, "attention.value_length": 32, "attention.key_length_swa": 32}
        | {"attention.sliding_window": WINDOW, "attention.sliding_window_pattern": [True, False]}
        | {"attention.shared_kv_layers": 0, "embedding_length_per_layer_input": 0, "rope.freq_base": 1e6},
    ),
    "qwen35": (
        "qwen3_5_text",
        _COMMON
        | {"layer_types": ["linear_attention", "full_attention"], "head_dim": 48, "linear_conv_kernel_dim": 3}
        | {"linear_num_key_heads": 2, "linear_num_value_heads": 6, "linear_key_head_dim": 16}
        | {"linear_value_head_dim": 32}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0, "partial_rotary_factor": 0.5}},
        {"attention.key_length": 48, "attention.value_length": 48, "rope.freq_base": 5000.0}
        | {"rope.dimension_count": 24, "rope.dimension_sections": [4, 4, 4, 0], "full_attention_interval": 4}
        | {"ssm.conv_kernel": 3, "ssm.state_size": 16, "ssm.group_count": 2, "ssm.time_step_rank": 6}
        | {"ssm.inner_size": 192},
    ),
    "qwen35, folded": (
        "qwen3_5_text",
        _COMMON
        | {"layer_types": ["linear_attention", "full_attention"], "head_dim": 64, "linear_conv_kernel_dim": 3}
        | {"linear_num_key_heads": 2, "linear_num_value_heads": 8, "linear_key_head_dim": 16}
        | {"linear_value_head_dim": 32, "intermediate_size": 256}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0, "partial_rotary_factor": 0.5}},
        {"attention.key_length": 64, "attention.value_length": 64, "rope.freq_base": 5000.0}
        | {"rope.dimension_count": 32, "ssm.conv_kernel": 3, "ssm.state_size": 16, "ssm.group_count": 2}
        | {"ssm.time_step_rank": 8, "ssm.inner_size": 256},
    ),
    "granitehybrid": (
        "granitemoehybrid",
        _COMMON
        | {"layer_types": ["mamba", "attention"], "num_local_experts": 0, "shared_intermediate_size": 96}
        | {"mamba_n_heads": 8, "mamba_d_head": 32, "mamba_d_state": 16, "mamba_d_conv": 3}
        | {"attention_multiplier": 0.25, "embedding_multiplier": 3.0, "residual_multiplier": 0.5}
        | {"logits_scaling": 2.0},
        {"attention.scale": 0.25, "embedding_scale": 3.0, "residual_scale": 0.5, "logit_scale": 2.0}
        | {"attention.head_count_kv": [0, 2], "expert_shared_feed_forward_length": 96, "rope.dimension_count": 32}
        | {"rope.scaling.finetuned": False, "ssm.conv_kernel": 3, "ssm.state_size": 16, "ssm.group_count": 1}
        | {"ssm.inner_size": 256, "ssm.time_step_rank": 8},
    ),
    "lfm2": (
        "lfm2",
        _COMMON
        | {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False, "conv_L_cache": 4}
        | {"rope_parameters": _ROPE},
        {"rope.freq_base": 5000.0, "attention.head_count_kv": [0, 2], "shortconv.l_cache": 4},
    ),
}
"""By a name: type and configuration of the model, and what its metadata says besides what all models' does."""
