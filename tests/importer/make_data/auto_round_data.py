"""Makes auto_round.npz: weights that AutoRound 0.16.1 packed, and what its layers multiply by, in float32.

With auto-round 0.16.1, torch 2.13, transformers 5.23, py-cpuinfo and datasets:

    python tests/importer/make_data/auto_round_data.py tests/importer/data
"""
# pyright: reportMissingImports=false

import sys
from pathlib import Path

import numpy as np
import torch
from auto_round.export.export_to_autoround.export import dynamic_import_quant_linear_for_packing
from auto_round.export.export_to_awq.utils import dequantize_gemm

N, K, G = 32, 32, 16
CASES = (  # packing format, bits, symmetric
    ("auto_round", 2, False),
    ("auto_round:auto_gptq", 2, True),
    ("auto_round:auto_gptq", 3, True),
    ("auto_round:auto_gptq", 4, False),
    ("auto_round:auto_gptq", 6, False),
    ("auto_round:gptqmodel", 3, False),
    ("auto_round:gptqmodel", 4, True),
    ("auto_round:auto_awq", 4, False),
    ("auto_round:auto_awq", 5, False),
)


def main():
    rng = np.random.default_rng(20261128)
    arrays = {}
    for packing, bits, symmetric in CASES:
        linear = torch.nn.Linear(K, N, bias=False)
        linear.weight.data = torch.tensor(rng.standard_normal((N, K)), dtype=torch.float32)
        grouped = linear.weight.data.reshape(N, K // G, G)
        low, high = grouped.amin(dim=2), grouped.amax(dim=2)
        levels = 2**bits - 1
        scales = ((high - low) / levels).half().float()
        zeros = torch.round(-low / scales).clamp(1, levels)
        if symmetric:
            scales = (torch.maximum(high, -low) * 2 / levels).half().float()
            zeros = 2 ** (bits - 1)
        if symmetric:  # integers beyond the grid spoil their neighbors at 5, 6 and 7 bits
            limits = ((0 - zeros) * scales, (levels - zeros) * scales)
            grouped = torch.minimum(torch.maximum(grouped, limits[0][..., None]), limits[1][..., None])
            linear.weight.data = grouped.reshape(N, K)
        QuantLinear = dynamic_import_quant_linear_for_packing(packing, bits, G, symmetric)
        if "awq" in packing:
            layer = QuantLinear.from_linear(
                linear, bits, G, scales=scales.t().contiguous(), zeros=zeros.t().contiguous()
            )
        else:
            layer = QuantLinear(bits, G, K, N, False)
            layer.device = "cpu"
            layer.pack(linear, scales, zeros, None, device="cpu")
        name = f"{packing}/{bits}"
        for part in ("qweight", "qzeros", "scales", "g_idx"):
            if hasattr(layer, part) and getattr(layer, part) is not None:
                arrays[f"{name}/{part}"] = getattr(layer, part).numpy().copy()
        layer.scales = layer.scales.float()
        if "awq" in packing:
            weight = dequantize_gemm(layer.qweight, layer.qzeros, layer.scales, bits, G)
        else:
            weight = layer(torch.eye(K))
        assert weight.dtype == torch.float32
        arrays[f"{name}/expected"] = weight.t().contiguous().numpy()
    np.savez_compressed(Path(sys.argv[1]) / "auto_round.npz", **arrays)


if __name__ == "__main__":
    main()
