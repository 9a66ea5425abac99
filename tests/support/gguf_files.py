"""GGUF files of tiny models, written with the gguf library as llama.cpp's converter lays models out."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gguf
import numpy as np
import torch
import transformers

from importer.model import Numbers
from tests.support.tiny_models import settle

Type = gguf.GGMLQuantizationType

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
_BLOCK = 32  # weights of a block of the smallest types
WINDOW = 8  # shorter than a prompt, so that it shows

MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llama": ("llama", _COMMON | {"rope_parameters": _ROPE}, {"rope.freq_base": 5000.0}),
    "llama of wide heads": (
        "llama",
        _COMMON | {"head_dim": 48, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
        {"attention.key_length": 48, "attention.value_length": 48, "rope.dimension_count": 48},
    ),
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

_ARCHITECTURES = {"gemma3_text": "gemma3", "gemma4_text": "gemma4", "hunyuan_v1_dense": "hunyuan-dense"}
_ARCHITECTURES |= {"qwen3_5_text": "qwen35", "granitemoehybrid": "granitehybrid"}
_NAMES = {  # that the library has under other ones of transformers, or under none
    "self_attn.attn_sub_norm.weight": "attn_sub_norm.weight",
    "mlp.ffn_sub_norm.weight": "ffn_sub_norm.weight",
    "layer_scalar": "layer_output_scale.weight",
    "linear_attn.dt_bias": "ssm_dt.bias",
    "mamba.dt_bias": "ssm_dt.bias",
    "shared_mlp.output_linear.weight": "ffn_down.weight",
}
_TOKENS = [
    "<pad>",
    "<s>",
    "</s>",
    "<|im_end|>",
    "Ġ",
    *(chr(code) for code in range(ord("!"), 127)),
    "th",
    "the",
    "Ġthe",
]

TOKENIZER: dict[str, Any] = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": [*_TOKENS, *(f"[PAD{number}]" for number in range(len(_TOKENS), 256))],
    "tokenizer.ggml.token_type": [3] * 4 + [1] * (len(_TOKENS) - 4) + [5] * (256 - len(_TOKENS)),
    "tokenizer.ggml.merges": ["t h", "th e", "Ġ the"],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.padding_token_id": 0,
    "tokenizer.chat_template": "{% for message in messages %}{{ message.content }}{% endfor %}",
}
"""Metadata of a byte-level tokenizer of 256 tokens."""

_PIECES = ["<unk>", "<s>", "</s>", "▁", "▁the", "the", "th", "t", "h", "e", "▁t", "▁th", "x", "y"]

SENTENCEPIECE: dict[str, Any] = dict.fromkeys(TOKENIZER) | {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.pre": "default",
    "tokenizer.ggml.tokens": [*_PIECES, *(f"<0x{byte:02X}>" for byte in range(256 - len(_PIECES)))],
    "tokenizer.ggml.token_type": [2, 3, 3] + [1] * (len(_PIECES) - 3) + [6] * (256 - len(_PIECES)),
    "tokenizer.ggml.scores": [-float(number) for number in range(256)],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
}
"""In place of those: pieces with scores, and bytes for the rest."""


def tiny_model(name: str) -> Any:
    """The model of that name, with weights drawn from seed 0 that survive 1 more and 1 less in float32."""
    model_type, values, _ = MODELS[name]
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, **values)
    model: Any = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn_like(parameter)
            parameter.copy_(0.08 * noise if parameter.dim() > 1 else ((1 + 0.1 * noise) * 4096).round() / 4096)
        settle(model)
    return model


def write_tiny_model(
    path: Path,
    name: str,
    *,
    types: Callable[[str], Any] = lambda tensor: Type.F32,
    keys: Mapping[str, Any] = MappingProxyType({}),
    tensors: Mapping[str, tuple[Any, np.ndarray] | None] = MappingProxyType({}),
    split: int = 0,
) -> Any:
    """Write the model `name` to `path` and return it. `types` says the type of a matrix by its name in the file.

    `keys` replaces or adds metadata, `tensors` tensors as their type and values, or bytes of blocks; None leaves one
    out. With `split`, a part has that many tensors.
    """
    model = tiny_model(name)
    kind = architecture(model)
    own = {f"{kind}.{key}": value for key, value in (_metadata(model.config) | MODELS[name][2]).items()}
    metadata = {"general.architecture": kind} | own | TOKENIZER | dict(keys)
    writer = gguf.GGUFWriter(path, metadata.pop("general.architecture"), split_max_tensors=split)
    for key, value in metadata.items():
        if value is not None:
            add(writer, key, value)
    stored: dict[str, tuple[Any, np.ndarray] | None] = {
        tensor: (types(tensor) if values.ndim > 1 and values.shape[-1] % _BLOCK == 0 else Type.F32, values)
        for tensor, values in (stored_tensors(model) | _rotary_factors(model)).items()
    }
    for tensor, content in (stored | dict(tensors)).items():
        if content is not None:
            form, values = content
            data = values if values.dtype == np.uint8 else gguf.quantize(values, form)
            writer.add_tensor(tensor, data, raw_dtype=form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _rotary_factors(model: Any) -> dict[str, np.ndarray]:
    """Tensors of factors: those that a configuration lists, or what transformers divides the frequencies by."""
    parameters = model.config.to_dict().get("rope_parameters") or {}
    if (full := parameters.get("full_attention", {})).get("rope_type") == "proportional":
        pairs = len(model.model.rotary_emb.full_attention_inv_freq)
        turning = int(full["partial_rotary_factor"] * pairs)
        return {"rope_freqs.weight": np.array([1.0] * turning + [1e30] * (pairs - turning), np.float32)}
    if parameters.get("rope_type") == "longrope":
        kinds = ("long", "short")
        return {f"rope_factors_{kind}.weight": np.array(parameters[f"{kind}_factor"], np.float32) for kind in kinds}
    if parameters.get("rope_type") == "llama3":
        scaled = model.model.rotary_emb.inv_freq.numpy()
        plain = parameters["rope_theta"] ** -(np.arange(len(scaled)) / len(scaled))
        return {"rope_freqs.weight": (plain / scaled).astype(np.float32)}
    return {}


def architecture(model: Any) -> str:
    """llama.cpp's name for a model's type."""
    name: str = model.config.model_type
    return _ARCHITECTURES.get(name, name)


def dequantized(numbers: Numbers) -> np.ndarray:
    """float32 of each weight, in the order of operations that GGUF's types are defined by."""
    size = numbers.q.shape[1] // numbers.step.shape[1]
    step = numbers.step.astype(np.float32).repeat(size, axis=1)
    if numbers.offset is not None:
        return step * numbers.q + numbers.offset.astype(np.float32).repeat(size, axis=1)
    return step * (numbers.q - np.float32(numbers.zero))


def add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """Add a value under the type that llama.cpp's converter gives it."""
    kinds: dict[type, Callable[[str, Any], None]] = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
        list: writer.add_array,
    }
    kinds[float if isinstance(value, np.floating) else type(value)](key, value)


def _metadata(config: Any) -> dict[str, Any]:
    """What every model's metadata says."""
    values = config.to_dict()

    def first(*names: str, default: Any = None) -> Any:
        return next((values[name] for name in names if values.get(name) is not None), default)

    heads, hidden = first("num_attention_heads", "n_head"), first("hidden_size", "n_embd")
    rms = first("rms_norm_eps") or (values.get("norm_eps") if config.model_type == "lfm2" else None)
    epsilon = rms or first("norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon")
    return {
        "context_length": first("max_position_embeddings", "n_positions", default=64),
        "block_count": first("num_hidden_layers", "n_layer"),
        "embedding_length": hidden,
        "feed_forward_length": first("intermediate_size", "ffn_hidden_size", "n_inner", default=4 * hidden),
        "attention.head_count": heads,
        "attention.head_count_kv": first("num_key_value_heads", "num_kv_heads", default=heads),
        f"attention.layer_norm_{'rms_' if rms else ''}epsilon": epsilon,
    }


def stored_tensors(model: Any) -> dict[str, np.ndarray]:
    """Name and float32 values of each tensor, as llama.cpp's converter stores them."""
    config, name = model.config, architecture(model)
    number = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == name)
    table = gguf.get_tensor_name_map(number, config.num_hidden_layers)
    stored = {}
    buffers = [(name, value) for name, value in model.named_buffers() if name in model.state_dict()]
    for parameter, value in (*model.named_parameters(), *buffers):
        block, _, part = parameter.removeprefix("model.layers.").partition(".")
        if part == "shared_mlp.input_linear.weight":
            for kind, rows in zip(("gate", "up"), np.split(value.detach().numpy(), 2), strict=True):
                stored[f"blk.{block}.ffn_{kind}.weight"] = np.ascontiguousarray(rows)
            continue
        tensor = f"blk.{block}.{_NAMES[part]}" if part in _NAMES else None
        for known in (parameter, parameter.removeprefix(f"{model.base_model_prefix}.")):
            tensor = tensor or table.get_name(known, try_suffixes=(".weight", ".bias"))
        stored[tensor or "output.weight"] = np.ascontiguousarray(
            _laid_out(name, parameter, value.detach().numpy(), config)
        )
    return stored


def _laid_out(name: str, parameter: str, value: np.ndarray, config: Any) -> np.ndarray:
    rest = value.shape[1:]
    if name in ("llama", "granite", "smollm3", "granitehybrid") and (
        ".q_proj." in parameter or ".k_proj." in parameter
    ):
        heads = config.num_attention_heads if ".q_proj." in parameter else config.num_key_value_heads
        # each head: the first and the second half of its rows, taken in turns
        return np.stack(np.split(value.reshape(heads, -1, *rest), 2, axis=1), axis=2).reshape(value.shape)
    if name in ("gemma", "gemma2", "gemma3", "nemotron") and parameter.endswith("norm.weight"):
        return value + np.float32(1)
    if name in ("qwen35", "granitehybrid") and parameter.endswith("A_log"):
        value = -np.exp(value)
    if name == "qwen35":
        return _with_tiled_heads(parameter, value, config)
    if name == "granitehybrid":
        return value[:, 0] if "conv1d.weight" in parameter else value[:, None] if parameter[-2:] == ".D" else value
    if name == "gpt2" and value.ndim == 2 and ".h." in parameter:
        return value.T
    if name == "lfm2" and "conv.conv" in parameter:
        return value[:, 0]
    if "query_key_value" in parameter:
        groups = config.n_head if name == "bloom" else (config.num_kv_heads if config.new_decoder_architecture else 1)
        size = config.hidden_size // config.num_attention_heads
        heads = value.reshape(groups, -1, size, *rest)
        return np.concatenate([heads[:, part].reshape(-1, *rest) for part in (slice(0, -2), -2, -1)])
    return value


def _with_tiled_heads(parameter: str, value: np.ndarray, config: Any) -> np.ndarray:
    """Qwen 3.5: the heads of values one of each key at a time; norms with the 1 that the model adds."""
    if parameter.endswith("norm.weight"):
        return value if "linear_attn" in parameter else value + np.float32(1)
    if "linear_attn" not in parameter:
        return value
    groups, heads = config.linear_num_key_heads, config.linear_num_value_heads
    order = [group * (heads // groups) + number for number in range(heads // groups) for group in range(groups)]
    values = heads * config.linear_value_head_dim
    if "out_proj" in parameter:
        return value.reshape(len(value), heads, -1)[:, order].reshape(value.shape)
    value = value[:, 0] if "conv1d" in parameter else value
    before = len(value) - values if "qkv" in parameter or "conv1d" in parameter else 0
    tiled = value[before:].reshape(heads, -1, *value.shape[1:])[order].reshape(value[before:].shape)
    return np.concatenate([value[:before], tiled])
