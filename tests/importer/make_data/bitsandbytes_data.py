"""Makes bitsandbytes.npz: a weight that bitsandbytes 0.50.2 quantized to eight bits, and what it dequantizes it to.

With bitsandbytes 0.50.2, torch 2.13:

    python tests/importer/make_data/bitsandbytes_data.py tests/importer/data
"""
# pyright: reportMissingImports=false

import sys
from pathlib import Path

import bitsandbytes.functional as bnb
import numpy as np
import torch

N, K = 16, 64


def main():
    torch.manual_seed(20261128)
    weight, rows, _ = bnb.int8_vectorwise_quant(torch.randn(N, K, dtype=torch.float16))
    expected = bnb.int8_vectorwise_dequant(weight, rows)
    parts = {"weight": weight, "SCB": rows, "expected": expected}
    np.savez_compressed(Path(sys.argv[1]) / "bitsandbytes.npz", **{key: value.numpy() for key, value in parts.items()})


if __name__ == "__main__":
    main()
