"""Makes gptqmodel.npz: weights that GPTQModel 7.7.0 packed, and what it dequantizes them to in float32.

GPTQModel builds from source only; its source archive on sys.path is enough, beside torch 2.13, transformers 5.23 and
pypcre, logbar, tokenicer, device-smi, defuser, threadpoolctl, random_word:

    PYTHONPATH=gptqmodel-7.7.0 python tests/importer/make_data/gptqmodel_data.py tests/importer/data
"""
# pyright: reportMissingImports=false

import sys
from pathlib import Path

import numpy as np
import torch
from gptqmodel.nn_modules.qlinear.torch import TorchLinear
from gptqmodel.quantization import FORMAT
from gptqmodel.utils.model import convert_gptq_v1_to_v2_format_module, convert_gptq_v2_to_v1_format_module

N, K, G = 32, 32, 16
LOW_CONSTANTS = (0x24924924, 0x92492492, 0x49249249)  # gptqmodel 2.2.0, utils/model.py, line 513


class Config:
    """What the conversion looks at."""

    pack_dtype = torch.int32

    def __init__(self, bits):
        self.bits = bits


def main():
    rng = np.random.default_rng(20261128)
    arrays = {}
    for bits, act_order in (
        (2, False),
        (3, False),
        (3, True),
        (4, False),
        (4, True),
        (8, False),
        (5, False),
        (7, True),
    ):
        form = FORMAT.GPTQ_P if bits in (5, 6, 7) else FORMAT.GPTQ_V2
        layer = packed(rng, bits, act_order, form)
        expected = layer.dequantize_weight().T.contiguous().float()
        name = f"{form.value}_{bits}_{'act_order' if act_order else 'plain'}"
        parts = {"qweight": layer.qweight, "qzeros": layer.qzeros, "scales": layer.scales.half(), "g_idx": layer.g_idx}
        arrays |= {f"{name}.{key}": value.numpy().copy() for key, value in (parts | {"expected": expected}).items()}
        if form == FORMAT.GPTQ_V2:
            convert_gptq_v2_to_v1_format_module(layer, Config(bits))
            v1 = layer.qzeros.clone()
            convert_gptq_v1_to_v2_format_module(layer, bits, torch.int32)
            assert torch.equal(layer.dequantize_weight().T.float(), expected)
            arrays[f"{name}.qzeros_v1"] = v1.numpy()
        if bits == 3:
            for i, constant in enumerate(LOW_CONSTANTS):
                layer.qzeros[:, i::3] -= constant
            arrays[f"{name}.qzeros_old"] = layer.qzeros.numpy()
    np.savez_compressed(Path(sys.argv[1]) / "gptqmodel.npz", **arrays)


def packed(rng, bits, act_order, form):
    """A layer of normal weights with asymmetric zero points, as GPTQModel packs it; some zero points are 0."""
    levels = 2**bits - 1
    weight = torch.tensor(rng.standard_normal((N, K)), dtype=torch.float32)
    groups = np.arange(K) // G
    if act_order:
        groups = rng.permutation(groups)
    g_idx = torch.tensor(groups, dtype=torch.int32)
    low = torch.stack([weight[:, g_idx == g].min(dim=1).values for g in range(K // G)], dim=1)
    high = torch.stack([weight[:, g_idx == g].max(dim=1).values for g in range(K // G)], dim=1)
    scales = ((high - low) / levels).half().float()
    zeros = torch.round(-low / scales).clamp(0, levels)
    zeros[::5] = 0
    linear = torch.nn.Linear(K, N, bias=False)
    linear.weight.data = weight
    layer = TorchLinear(
        bits=bits, group_size=G, sym=False, desc_act=act_order, in_features=K, out_features=N, format=form
    )
    layer.pack_original(linear, scales, zeros, g_idx)
    layer.scales = layer.scales.float()
    layer.post_init()
    layer.eval()
    return layer


if __name__ == "__main__":
    main()
