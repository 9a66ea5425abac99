"""Makes autoawq.npz: a weight that AutoAWQ 0.2.9 packed, and what it dequantizes it to, in float32.

With autoawq 0.2.9, torch 2.13, transformers 5.23 and datasets:

    python tests/importer/make_data/autoawq_data.py tests/importer/data
"""
# pyright: reportMissingImports=false

import sys
from pathlib import Path

import numpy as np
import torch
from awq.modules.linear.gemm import WQLinear_GEMM
from awq.utils.packing_utils import dequantize_gemm

N, K, G = 64, 64, 32


def main():
    rng = np.random.default_rng(20261128)
    linear = torch.nn.Linear(K, N, bias=False)
    linear.weight.data = torch.tensor(rng.standard_normal((N, K)), dtype=torch.float32)
    grouped = linear.weight.data.reshape(N, K // G, G)
    low, high = grouped.amin(dim=2), grouped.amax(dim=2)
    scales = ((high - low) / 15).half().float()
    zeros = torch.round(-low / scales).clamp(0, 15)
    limits = ((0 - zeros) * scales, (15 - zeros) * scales)
    grouped = torch.minimum(torch.maximum(grouped, limits[0][..., None]), limits[1][..., None])
    linear.weight.data = grouped.reshape(N, K)
    layer = WQLinear_GEMM.from_linear(linear, 4, G, scales=scales.t().contiguous(), zeros=zeros.t().contiguous())
    expected = dequantize_gemm(layer.qweight, layer.qzeros, layer.scales.float(), 4, G).t().contiguous()
    parts = {"qweight": layer.qweight, "qzeros": layer.qzeros, "scales": layer.scales, "expected": expected}
    np.savez_compressed(Path(sys.argv[1]) / "autoawq.npz", **{key: value.numpy() for key, value in parts.items()})


if __name__ == "__main__":
    main()
