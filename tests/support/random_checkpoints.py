"""Checkpoints of random planes, without a calibration."""

import json
from collections.abc import Collection
from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from dualbinary import dequantize, pack_planes
from dualbinary.checkpoint import PER_CHANNEL, QuantizationConfig, planes_name, scales_name, write_checkpoint


def write_random_checkpoint(
    model_dir: Path,
    checkpoint: Path,
    *,
    planes: int = 2,
    has_offset: bool = True,
    group_size: int = 32,
    skip: Collection[str] = (),
    scale_dtype: type[np.floating] = np.float16,
) -> dict[str, np.ndarray]:
    """Write a checkpoint of random planes for every Linear of `model_dir`; returns the weights by module."""
    config = json.loads((model_dir / "config.json").read_text())
    stored = load_file(model_dir / "model.safetensors")
    rng = np.random.default_rng(0)
    tensors, modules = {}, {}
    for name, tensor in stored.items():
        module = name.removesuffix(".weight")
        is_linear = tensor.dim() == 2 and not any(part in name for part in ("embed", "lm_head", "wte", "wpe", "word_"))
        if not is_linear or module in skip:
            tensors[name] = tensor.numpy()
            continue
        k, n = tensor.shape if "gpt2" in str(model_dir) else reversed(tensor.shape)
        bits = rng.integers(0, 2, (planes, n, k))
        packed = pack_planes(bits, 32 if group_size == PER_CHANNEL else group_size)
        size = 8 * packed.shape[2] if group_size == PER_CHANNEL else group_size
        scales = rng.normal(0, 0.1, (planes + has_offset, n, packed.shape[2] * 8 // size)).astype(scale_dtype)
        tensors[planes_name(module)], tensors[scales_name(module)] = packed, scales
        modules[module] = dequantize(packed, scales, k, size)
    quantization = QuantizationConfig(
        method="fdb",
        planes=planes,
        group_size=group_size,
        has_offset=has_offset,
        modules_to_not_convert=tuple(skip),
    )
    write_checkpoint(checkpoint, config, quantization, tensors.items())
    return modules
