"""Directories as other quantizers write them: the tensors of a tiny llama, packed or plain, and a config."""

import json

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from dualbinary.checkpoint import load_module, load_order, read_quantization_config, stored_tensors
from importer.checkpoint import write_model

HIDDEN, INNER, VOCABULARY = 64, 96, 128

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "dtype": "float16",
}

LINEARS = {
    "model.layers.0.self_attn.q_proj": (HIDDEN, HIDDEN),
    "model.layers.0.self_attn.k_proj": (HIDDEN // 2, HIDDEN),
    "model.layers.0.self_attn.v_proj": (HIDDEN // 2, HIDDEN),
    "model.layers.0.self_attn.o_proj": (HIDDEN, HIDDEN),
    "model.layers.0.mlp.gate_proj": (INNER, HIDDEN),
    "model.layers.0.mlp.up_proj": (INNER, HIDDEN),
    "model.layers.0.mlp.down_proj": (HIDDEN, INNER),
}
"""Linear layers of the decoder block: name to (N, K)."""

TABLES = {"model.embed_tokens": (VOCABULARY, HIDDEN), "lm_head": (VOCABULARY, HIDDEN)}

NORMS = ("model.layers.0.input_layernorm", "model.layers.0.post_attention_layernorm", "model.norm")


def plain_tensors(rng, modules=TABLES, dtype=np.float16):
    """Norms, and the weights of `modules`."""
    tensors = {f"{name}.weight": np.ones(HIDDEN, dtype) for name in NORMS}
    return tensors | {f"{name}.weight": rng.standard_normal(shape).astype(dtype) for name, shape in modules.items()}


def save(path, tensors, block, *, key="quantization_config", files=(), config=CONFIG):
    """Write config.json, the tensors, and empty JSON files of these names; returns the directory and its config."""
    path.mkdir(parents=True, exist_ok=True)
    config = {**config, **({} if block is None else {key: block})}
    (path / "config.json").write_text(json.dumps(config))
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, path / "model.safetensors")
    for name in files:
        (path / name).write_text("{}")
    return path, config


def dequantized(packed, dtype: type[np.floating] = np.float32):
    """[N, K] of a weight, its columns in the order of the inputs; every operation rounds to `dtype` once."""
    numbers = packed.read()
    N, K = packed.N, packed.K
    assert numbers.q.shape == (N, K)
    assert numbers.q.dtype == np.uint8
    groups = np.arange(K) // (K if packed.group_size == -1 else packed.group_size)
    assert numbers.step.shape in ((N, groups[-1] + 1), (1, 1))
    step, zero, offset = (_at(it, groups, dtype) for it in (numbers.step, numbers.zero, numbers.offset))
    q = numbers.q.astype(dtype)
    weight = step * (q - zero) if offset is None else step * q + offset
    assert weight.dtype == dtype
    if numbers.order is None:
        return weight
    assert numbers.order.dtype == np.int32
    result = np.empty_like(weight)
    result[:, numbers.order] = weight
    return result


def assert_checkpoint_holds(model, path):
    """Write the checkpoint of a model to `path`, and hold every weight and tensor of it against what was read."""
    write_model(model, path)
    config, stored = read_quantization_config(path), stored_tensors(path)
    assert config is not None
    for module, packed in model.weights.items():
        weight = load_module(stored, module, packed.N, packed.K, config.format_of(module)).dequantize()
        order = load_order(stored, module)
        found = np.empty_like(weight)
        found[:, np.arange(packed.K) if order is None else order] = weight
        np.testing.assert_array_equal(found, dequantized(packed, np.float64))
    assert set(model.tensors) <= set(stored)
    assert all((path / name).is_file() for name in model.files())


def _at(values, groups, dtype):
    """Values of the groups of all columns."""
    if values is None or np.shape(values) in ((), (1, 1)):
        return None if values is None else dtype(np.squeeze(values))
    return values.astype(dtype)[:, groups]


def bfloat16(values):
    return np.asarray(values).astype(ml_dtypes.bfloat16)
