"""Makes mlx.npz: weights that MLX 0.32.4 quantized on a CPU, and what it dequantizes them to.

With mlx 0.32.4 and mlx-cpu 0.32.4:

    python tests/importer/make_data/mlx_data.py tests/importer/data
"""
# pyright: reportMissingImports=false

import sys
from pathlib import Path

import mlx.core as mx
import numpy as np

N, K = 8, 128


def main():
    rng = np.random.default_rng(20261128)
    arrays = {}
    for bits, size in ((2, 64), (3, 32), (4, 32), (5, 64), (6, 128), (8, 32)):
        weight = mx.array(rng.standard_normal((N, K)).astype(np.float32))
        packed, scales, biases = mx.quantize(weight, group_size=size, bits=bits)
        parts = {"weight": packed, "scales": scales, "biases": biases}
        parts["expected"] = mx.dequantize(packed, scales, biases, group_size=size, bits=bits)
        arrays |= {f"{bits}/{size}/{key}": np.array(value) for key, value in parts.items()}
    np.savez_compressed(Path(sys.argv[1]) / "mlx.npz", **arrays)


if __name__ == "__main__":
    main()
