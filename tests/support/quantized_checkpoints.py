"""Checkpoints of random planes, as calibration writes them: for the exporter's tests."""

import json
from collections.abc import Mapping

import numpy as np
from safetensors.torch import load_file

from dualbinary.checkpoint import QuantizationConfig, planes_name, rotation_signs_name, scales_name, write_checkpoint
from dualbinary.contract.rotation import Rotation
from dualbinary.contract.weight import PlaneFormat
from tests.support.random_weights import random_weight


def quantize(
    model_dir,
    checkpoint,
    *,
    planes=2,
    has_offset=True,
    group_size=32,
    skip=(),
    scale_dtype: type[np.floating] = np.float16,
    form: PlaneFormat | None = None,
    overrides: Mapping[str, PlaneFormat] | None = None,
    tables: Mapping[str, PlaneFormat] | None = None,
    block_sizes: Mapping[str, int] | None = None,
):
    """Write a checkpoint of random planes for every Linear of `model_dir` and return them by module.

    `overrides` are the formats of modules that differ from `form`, which otherwise follows from what is before it;
    `tables` those of vocabulary tables, which else stay as they are. `block_sizes` are those of rotations of modules,
    whose signs depend on the number of inputs alone.
    """
    config = json.loads((model_dir / "config.json").read_text())
    stored = load_file(model_dir / "model.safetensors")
    rng = np.random.default_rng(0)
    default = form or PlaneFormat(planes, group_size, has_offset, scale_dtype=np.dtype(scale_dtype))
    tables = tables or {}
    formats = {**(overrides or {}), **tables}
    tensors, modules = {}, {}
    for name, tensor in stored.items():
        module = name.removesuffix(".weight")
        is_linear = tensor.dim() == 2 and not any(part in name for part in ("embed", "lm_head", "wte", "wpe", "word_"))
        if not (is_linear or module in tables) or module in skip:
            tensors[name] = tensor.numpy()
            continue
        K, N = tensor.shape if "gpt2" in str(model_dir) else reversed(tensor.shape)
        weight = random_weight(rng, N, K, formats.get(module, default))
        tensors[planes_name(module)], tensors[scales_name(module)] = weight.planes, weight.scales
        modules[module] = weight.dequantize()
        if block_sizes and module in block_sizes:
            rotation = Rotation(block_sizes[module], random_signs(K))
            tensors[rotation_signs_name(module)] = rotation.signs
            modules[module] = rotation.unrotated(modules[module])
    quantization = QuantizationConfig.of_formats("fdb", default, overrides or {}, tuple(skip), tables, block_sizes)
    write_checkpoint(checkpoint, config, quantization, tensors.items())
    return modules


def random_signs(K: int) -> np.ndarray:
    """Signs int8 [K] for K inputs, always the same."""
    return np.random.default_rng(K).choice(np.array([-1, 1], np.int8), K)
