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
from tests.support.gguf_models import MODELS
from tests.support.tiny_models import settle

Type = gguf.GGMLQuantizationType

_BLOCK = 32  # weights of a block of the smallest types
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
