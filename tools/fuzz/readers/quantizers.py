"""Directories of other quantizers: importer.readers, format by format."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from safetensors.numpy import save

from dualbinary import InputError
from importer.readers import open_model
from tools.fuzz.readers.sections import files_of, in_directory, joined

NAME = "quantizers"

_N, _K, _G = 32, 64, 32
_MODULE = "model.layers.0.mlp.up_proj"
_CONFIG = {"model_type": "llama", "hidden_size": _K, "vocab_size": 16, "num_hidden_layers": 1}


def _words(*shape: int, dtype: Any = np.int32) -> np.ndarray:
    return np.zeros(shape, dtype)


def _formats() -> Iterator[tuple[str, dict[str, Any], dict[str, np.ndarray]]]:
    """The key of the block, the block, and the tensors of one weight."""
    groups, half = _K // _G, np.float16
    block = "quantization_config"
    scales = np.ones((groups, _N), half)
    gptq = {"qweight": _words(_K // 8, _N), "qzeros": _words(groups, _N // 8), "scales": scales}
    facts = {"bits": 4, "group_size": _G, "sym": False, "desc_act": True, "checkpoint_format": "gptq"}
    order = {"g_idx": np.arange(_K, dtype=np.int32) // _G}
    yield block, {"quant_method": "gptq", **facts}, gptq | order
    awq = {"qweight": _words(_K, _N // 8), "qzeros": _words(groups, _N // 8), "scales": scales}
    yield block, {"quant_method": "awq", "bits": 4, "group_size": _G, "version": "gemm", "zero_point": True}, awq
    rounds = {"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq", "bits": 4, "group_size": _G}
    yield block, {**rounds, "sym": True}, gptq
    mlx = {"weight": _words(_N, _K // 8, dtype=np.uint32), "scales": scales.T, "biases": scales.T}
    yield "quantization", {"bits": 4, "group_size": _G, "mode": "affine"}, mlx
    yield (
        block,
        {"quant_method": "bitnet", "linear_class": "bitlinear", "quantization_mode": "offline"},
        {
            "weight": _words(_N // 4, _K, dtype=np.uint8),
            "weight_scale": np.ones(1, half),
        },
    )
    weights = {"num_bits": 4, "type": "int", "strategy": "group", "symmetric": True, "group_size": _G}
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    tensors = {"packed": _words(_N, _K // 8), "shape": np.array([_N, _K]), "scale": scales.T}
    compressed = {"quant_method": "compressed-tensors", "format": "pack-quantized", "version": "0.20.0"}
    compressed |= {"config_groups": {"group_0": group}, "ignore": ["lm_head"], "quantization_status": "compressed"}
    yield block, compressed, {f"weight_{name}": tensor for name, tensor in tensors.items()}
    yield (
        block,
        {"quant_method": "bitsandbytes", "load_in_8bit": True},
        {
            "weight": _words(_N, _K, dtype=np.int8),
            "SCB": np.ones(_N, np.float32),
            "weight_format": np.array(0, np.uint8),
        },
    )
    yield (
        block,
        {"quant_method": "hqq"},
        {
            "W_q": _words(_N * _K // _G // 2, _G, dtype=np.uint8),
            "scale": np.ones((_N * _K // _G, 1), half),
            "zero": np.ones((_N * _K // _G, 1), half),
            **{key: np.array(value) for key, value in (("nbits", 4), ("group_size", _G), ("axis", 1))},
            "shape": np.array([_N, _K]),
            "packing": np.frombuffer(b"4bit_u8", np.uint8),
        },
    )


def seeds() -> Iterator[bytes]:
    """A directory of each format, with one weight and a norm; then all of them inside a model that takes pictures."""
    around = {"model_type": "llava", "text_config": _CONFIG}
    for config, prefix in ((_CONFIG, ""), (around, "language_model.")):
        for key, block, parts in _formats():
            tensors = {f"{prefix}{_MODULE}.{part}": np.ascontiguousarray(value) for part, value in parts.items()}
            tensors[f"{prefix}model.norm.weight"] = np.ones(_K, np.float16)
            facts = json.dumps({**config, key: block}).encode()
            yield joined({"config.json": facts, "model.safetensors": save(tensors)})


def try_input(data: bytes) -> None:
    """Open the directory by whatever reader recognises it, and read the weights."""
    with in_directory(files_of(data)) as directory:
        try:
            model = open_model(directory)
            for weight in model.weights.values():
                weight.read()
            for tensor in model.tensors.values():
                tensor.read()
        except InputError:
            pass
