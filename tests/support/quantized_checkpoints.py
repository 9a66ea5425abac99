"""Checkpoints of random planes, as calibration writes them: for the exporter's tests."""

import json

import numpy as np
from safetensors.torch import load_file

from dualbinary.checkpoint import QuantizationConfig, planes_name, scales_name, write_checkpoint
from dualbinary.contract.weight import PlaneFormat, PlaneWeight


def quantize(
    model_dir,
    checkpoint,
    *,
    planes=2,
    has_offset=True,
    group_size=32,
    skip=(),
    scale_dtype: type[np.floating] = np.float16,
):
    """Write a checkpoint of random planes for every Linear of `model_dir` and return them by module."""
    config = json.loads((model_dir / "config.json").read_text())
    stored = load_file(model_dir / "model.safetensors")
    rng = np.random.default_rng(0)
    plane_format = PlaneFormat(planes, group_size, has_offset)
    tensors, modules = {}, {}
    for name, tensor in stored.items():
        module = name.removesuffix(".weight")
        is_linear = tensor.dim() == 2 and not any(part in name for part in ("embed", "lm_head", "wte", "wpe", "word_"))
        if not is_linear or module in skip:
            tensors[name] = tensor.numpy()
            continue
        K, N = tensor.shape if "gpt2" in str(model_dir) else reversed(tensor.shape)
        bits = rng.integers(0, 2, (planes, N, K))
        scales = rng.normal(0, 0.1, plane_format.shapes(N, K)[1]).astype(scale_dtype)
        weight = PlaneWeight.pack(bits, scales, plane_format.for_inputs(K).group_size)
        tensors[planes_name(module)], tensors[scales_name(module)] = weight.planes, weight.scales
        modules[module] = weight.dequantize()
    quantization = QuantizationConfig(
        method="fdb",
        planes=planes,
        group_size=group_size,
        has_offset=has_offset,
        modules_to_not_convert=tuple(skip),
    )
    write_checkpoint(checkpoint, config, quantization, tensors.items())
    return modules
