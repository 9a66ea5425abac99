"""Makes compressed_tensors.npz: weights that compressed-tensors packed, and what it decompresses them to, in float32.

With compressed-tensors 0.20.0 and loguru, torch 2.13, transformers 5.23; then once more with 0.17.1, which packs 3, 5,
6 and 7 bits otherwise and adds its tensors to the file:

    python tests/importer/make_data/compressed_tensors_data.py tests/importer/data
"""
# pyright: reportMissingImports=false

import sys
from pathlib import Path

import compressed_tensors
import numpy as np
import torch
from compressed_tensors.compressors.naive_quantized import IntQuantizationCompressor
from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

N, K, G = 12, 64, 32
CASES = (  # packed, bits, strategy, symmetric
    (True, 2, "group", True),
    (True, 3, "group", False),
    (True, 4, "group", False),
    (True, 4, "channel", True),
    (True, 5, "channel", False),
    (True, 6, "group", True),
    (True, 8, "group", False),
    (False, 8, "channel", True),
    (False, 8, "channel", False),
    (False, 8, "tensor", True),
)


def main():
    old = compressed_tensors.__version__.startswith("0.17")
    path = Path(sys.argv[1]) / "compressed_tensors.npz"
    arrays = dict(np.load(path)) if old else {}
    rng = np.random.default_rng(20261128)
    for packed, bits, strategy, symmetric in CASES:
        if old and (not packed or 32 % bits == 0):
            continue
        size = {"group": G, "channel": K, "tensor": K}[strategy]
        args = QuantizationArgs(
            num_bits=bits, symmetric=symmetric, strategy=strategy, group_size=G if strategy == "group" else None
        )
        scheme = QuantizationScheme(targets=["Linear"], weights=args)
        weight = torch.tensor(rng.standard_normal((N, K)), dtype=torch.float32)
        grouped = weight.reshape(N, K // size, size)
        low, high = grouped.amin(dim=2), grouped.amax(dim=2)
        scale = torch.maximum(-low, high) * 2 / (2**bits - 1) if symmetric else (high - low) / (2**bits - 1)
        zero = torch.zeros_like(scale) if symmetric else torch.round(-low / scale) - 2 ** (bits - 1)
        if strategy == "tensor":
            scale, zero = scale.max().reshape(1), zero[:1, 0]
        limit = 2 ** (bits - 1)
        state = {"weight": weight, "weight_scale": scale.half().float()}
        state["weight_zero_point"] = zero.clamp(-limit, limit - 1).to(torch.int8)
        compressor = PackedQuantizationCompressor if packed else IntQuantizationCompressor
        stored = compressor.compress(state, scheme)
        name = f"{'0.17.1' if old else '0.20.0'}/{'pack' if packed else 'int'}/{bits}/{strategy}/"
        name += "symmetric" if symmetric else "asymmetric"
        arrays |= {f"{name}/{key}": value.numpy() for key, value in stored.items()}
        arrays[f"{name}/expected"] = compressor.decompress(stored, scheme)["weight"].numpy()
    np.savez_compressed(path, **arrays)


if __name__ == "__main__":
    main()
