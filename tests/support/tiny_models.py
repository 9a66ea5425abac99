"""Tiny random models, one for each architecture: for the tests of calib, exporter, studies and e2e."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers

VOCABULARY = 256

_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 160,  # not a multiple of 64: a ragged last group
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_WINDOW = 8  # shorter than the checked prompt, so that it shows


def _changed(**values: Any) -> dict[str, Any]:
    return {**_COMMON, **values}


CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", _COMMON),
    "llama_tied": ("llama", _changed(tie_word_embeddings=True, attention_bias=True)),
    # A head that GroupQueryAttention does not take: Attention stays, and caches grow.
    "llama_head20": ("llama", _changed(head_dim=20)),
    "mistral": ("mistral", _changed(sliding_window=None)),
    "mistral_window": ("mistral", _changed(sliding_window=_WINDOW)),
    "qwen2": ("qwen2", _COMMON),
    "qwen3": ("qwen3", _changed(head_dim=32)),
    "phi3": ("phi3", _COMMON),
    "gemma": ("gemma", _changed(head_dim=32)),
    "gemma2": ("gemma2", _changed(head_dim=32, sliding_window=_WINDOW, query_pre_attn_scalar=32)),
    "gemma3_text": (
        "gemma3_text",
        _changed(
            head_dim=32,
            sliding_window=_WINDOW,
            query_pre_attn_scalar=32,
            layer_types=["sliding_attention", "full_attention"],
        ),
    ),
    "opt": (
        "opt",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "ffn_dim": 160,
            "max_position_embeddings": 128,
            "word_embed_proj_dim": 128,
        },
    ),
    "gpt2": (
        "gpt2",
        {"vocab_size": VOCABULARY, "n_embd": 128, "n_layer": 2, "n_head": 4, "n_positions": 128, "bos_token_id": 1}
        | {"eos_token_id": 2},
    ),
    "bloom": ("bloom", {"vocab_size": VOCABULARY, "hidden_size": 128, "n_layer": 2, "n_head": 4}),
    "gpt_neox": ("gpt_neox", {k: v for k, v in _COMMON.items() if k != "num_key_value_heads"}),
    "phi": ("phi", _COMMON),
    "granite": ("granite", _COMMON),
    "olmo2": ("olmo2", _COMMON),
    "stablelm": ("stablelm", _COMMON),
    "starcoder2": ("starcoder2", _COMMON),
    "smollm3": ("smollm3", _COMMON),
    "cohere": ("cohere", _COMMON),
    "arcee": ("arcee", _COMMON),
    "nemotron": ("nemotron", _COMMON),
    "olmo": ("olmo", _COMMON),
    "qwen2_moe": (
        "qwen2_moe",
        _changed(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=64, shared_expert_intermediate_size=96),
    ),
    "mixtral": ("mixtral", _changed(num_local_experts=4, num_experts_per_tok=2)),
    "qwen3_moe": (
        "qwen3_moe",
        _changed(head_dim=32, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=64),
    ),
}


_WITHOUT_GROUPS = {k: v for k, v in _COMMON.items() if k != "num_key_value_heads"}
_GPT = {"vocab_size": VOCABULARY, "n_embd": 128, "n_layer": 2, "n_head": 4, "n_positions": 128, "bos_token_id": 1}
_GPT |= {"eos_token_id": 2}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
_LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_ROUTED_EXPERTS = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "n_group": 2,
    "topk_group": 1,
}
_LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 32,
    "q_lora_rank": 48,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
}
_STATE_SPACE = {
    "mamba_n_heads": 8,
    "mamba_n_groups": 2,
    "mamba_d_state": 16,
    "mamba_expand": 2,
    "shared_intermediate_size": 96,
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.5,
    "logits_scaling": 2.0,
    "attention_multiplier": 0.2,
}
_MIXED = {"sliding_window": _WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
_YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}

CONFIGS |= {
    "apertus": ("apertus", _COMMON),
    "bitnet": ("bitnet", _COMMON),
    "codegen": ("codegen", {**_GPT, "rotary_dim": 16}),
    "cohere2": ("cohere2", _changed(head_dim=32, **_MIXED)),
    "deepseek_v2": ("deepseek_v2", _changed(**_ROUTED_EXPERTS, **_LATENT, topk_method="greedy")),
    "deepseek_v3": (
        "deepseek_v3",
        _changed(**_ROUTED_EXPERTS, **_LATENT, rope_parameters={**_YARN, "mscale": 0.7, "mscale_all_dim": 0.7}),
    ),
    "dots1": ("dots1", _changed(**_ROUTED_EXPERTS, **_MIXED)),
    "ernie4_5": ("ernie4_5", _changed(head_dim=32, use_bias=True)),
    "exaone4": ("exaone4", _changed(**_MIXED)),
    "falcon": ("falcon", _WITHOUT_GROUPS),
    "flex_olmo": ("flex_olmo", _changed(**_EXPERTS)),
    "gemma4_text": (
        "gemma4_text",
        _changed(
            num_hidden_layers=4,
            head_dim=32,
            global_head_dim=64,
            num_global_key_value_heads=1,
            attention_k_eq_v=True,
            sliding_window=_WINDOW,
            layer_types=["sliding_attention", "full_attention"] * 2,
            num_kv_shared_layers=2,
            use_double_wide_mlp=True,
            vocab_size_per_layer_input=VOCABULARY,
            hidden_size_per_layer_input=16,
            final_logit_softcapping=3.0,
        ),
    ),
    # Every layer with keys of its own, none with an input for each token.
    "gemma4_text_plain": (
        "gemma4_text",
        _changed(head_dim=32, global_head_dim=32, hidden_size_per_layer_input=0, **_MIXED),
    ),
    "gemma4_text_experts": (
        "gemma4_text",
        _changed(head_dim=32, global_head_dim=64, hidden_size_per_layer_input=0, **_MIXED)
        | {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 64},
    ),
    "gemma4_unified_text": (
        "gemma4_unified_text",
        _changed(head_dim=32, global_head_dim=64, num_global_key_value_heads=1, attention_k_eq_v=True, **_MIXED),
    ),
    "glm": ("glm", _changed(head_dim=32, attention_bias=True)),
    "glm4": ("glm4", _changed(head_dim=32)),
    "gpt_bigcode": ("gpt_bigcode", _GPT),
    "gpt_neo": (
        "gpt_neo",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 128,
            "num_layers": 2,
            "num_heads": 4,
            "intermediate_size": 160,
            "attention_types": [[["global", "local"], 1]],
            "window_size": _WINDOW,
            "max_position_embeddings": 128,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    "gpt_oss": ("gpt_oss", _changed(head_dim=32, **_LOCAL_EXPERTS, **_MIXED)),
    "gptj": ("gptj", {**_GPT, "rotary_dim": 16}),
    "granitemoe": ("granitemoe", _changed(**_LOCAL_EXPERTS)),
    "granitemoehybrid": (
        "granitemoehybrid",
        _changed(**_STATE_SPACE, **_LOCAL_EXPERTS, layer_types=["linear_attention", "full_attention"]),
    ),
    "granitemoehybrid_dense": (
        "granitemoehybrid",
        _changed(
            **_STATE_SPACE,
            num_local_experts=0,
            num_experts_per_tok=0,
            position_embedding_type="rope",
            layer_types=["full_attention", "linear_attention"],
        ),
    ),
    "helium": ("helium", _changed(head_dim=32)),
    "hunyuan_v1_dense": ("hunyuan_v1_dense", _changed(head_dim=32)),
    "cwm": ("cwm", _changed(head_dim=32, **_MIXED)),
    "hyperclovax": ("hyperclovax", _changed(logits_scaling=0.5)),
    "vaultgemma": ("vaultgemma", _changed(head_dim=32, sliding_window=_WINDOW, query_pre_attn_scalar=32)),
    "ministral": ("ministral", _changed(head_dim=32, **_MIXED)),
    "ministral3": (
        "ministral3",
        _changed(head_dim=32, rope_parameters={**_YARN, "llama_4_scaling_beta": 0.5}, sliding_window=None),
    ),
    "lfm2": (
        "lfm2",
        _changed(
            num_hidden_layers=3,
            layer_types=["conv", "full_attention", "conv"],
            conv_bias=True,
            block_auto_adjust_ff_dim=False,
        ),
    ),
    "lfm3": (
        "lfm3",
        _changed(
            num_hidden_layers=3,
            head_dim=32,
            layer_types=["conv", "sliding_attention", "full_attention"],
            sliding_window=_WINDOW,
        ),
    ),
    "mpt": ("mpt", {"vocab_size": VOCABULARY, "d_model": 128, "n_layers": 2, "n_heads": 4, "max_seq_len": 128}),
    "nanochat": ("nanochat", _COMMON),
    "olmo3": ("olmo3", _changed(**_MIXED, rope_scaling={**_YARN, "attention_factor": 1.2})),
    "olmoe": ("olmoe", _changed(**_EXPERTS)),
    "openai-gpt": ("openai-gpt", _GPT),
    "persimmon": ("persimmon", _WITHOUT_GROUPS),
    "qwen3_5_text": (
        "qwen3_5_text",
        _changed(
            head_dim=32,
            linear_num_key_heads=2,
            linear_num_value_heads=4,
            linear_key_head_dim=24,
            linear_value_head_dim=32,
            layer_types=["linear_attention", "full_attention"],
        ),
    ),
    "seed_oss": ("seed_oss", _changed(head_dim=32)),
    "youtu": ("youtu", _changed(**_LATENT, pad_token_id=None)),
}


# Models that calibration refuses: transformers renames tensors of the first, of granitemoe and of lfm3 while it loads
# them, and stacks the experts of the others; those of STACKED are stored as stacks, which are no matrices.
NOT_CALIBRATED = ("gpt_neox", "qwen2_moe", "mixtral", "qwen3_moe", "deepseek_v2", "deepseek_v3", "dots1", "flex_olmo")
STACKED = ("gemma4_text_experts", "gpt_oss")
NOT_CALIBRATED += ("olmoe", "granitemoe", "granitemoehybrid", "lfm3", *STACKED)

# Models some of whose layers carry states in place of keys and values.
WITH_STATES = ("lfm2", "lfm3", "qwen3_5_text", "granitemoehybrid", "granitemoehybrid_dense")


def make_model(name: str, directory: Path, *, shards: int = 1, dtype: torch.dtype = torch.float32) -> Path:
    """Write the tiny model `name` with weights drawn from seed 0, and return `directory`."""
    model_type, values = CONFIGS[name]
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, **values)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter.dim() >= 2:
                parameter.normal_(0, 0.08)
            elif parameter_name.endswith("bias"):
                parameter.normal_(0, 0.05)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
        settle(model)
    size = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    model.to(dtype).save_pretrained(directory, max_shard_size=size // shards + 1)
    return directory


def settle(model: Any) -> None:
    """What is left after the parameters of a model were drawn: ties, and the factors of layers, which are buffers.

    Gemma 4 does not scale scores: its norms of queries are small instead.
    """
    model.tie_weights()
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("layer_scalar"):
                buffer.copy_(0.7 + 0.2 * torch.rand(buffer.shape))
        for name, parameter in model.named_parameters():
            if model.config.model_type.startswith("gemma4") and name.endswith("q_norm.weight"):
                parameter.mul_(len(parameter) ** -0.5)


def edit_config(directory: Path, **values: Any) -> None:
    """Change values of config.json; a value of None removes the key."""
    path = directory / "config.json"
    config = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
