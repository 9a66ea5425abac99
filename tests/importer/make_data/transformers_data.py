"""Makes transformers.npz: what the layers of transformers 5.23 for BitNet and for Gemma's quantization multiply by.

With transformers 5.23 and torch 2.13, which the project's own environment has:

    python tests/importer/make_data/transformers_data.py tests/importer/data
"""

import sys
from pathlib import Path

import numpy as np
import torch
from transformers.integrations.bitnet import pack_weights, unpack_weights
from transformers.integrations.gemma_quant import QuantizedEmbedding, QuantizedLinear

N, K = 16, 64


def main():
    rng = np.random.default_rng(20261128)
    ternary = torch.tensor(rng.integers(-1, 2, (N, K)), dtype=torch.float32)
    packed = pack_weights(ternary.clone())
    torch._dynamo.config.disable = True  # the packing alone is asked, not the compiler
    assert torch.equal(unpack_weights(packed, torch.float32), ternary)
    arrays = {"bitnet/weight": packed, "bitnet/expected": ternary}
    for bits in (2, 4, 8):
        layer = QuantizedLinear(K, N, num_bits=bits)
        table = QuantizedEmbedding(N, K, torch.float32, num_bits=bits)
        stored = layer.weight.shape
        low, high = (-128, 128) if bits == 8 else (0, 256)
        integers = torch.tensor(rng.integers(low, high, stored), dtype=layer.weight.dtype)
        layer.weight.data, table.embedding_quantized.data = integers, integers.clone()
        layer.weight_scale.data = torch.tensor(rng.random((N, 1)), dtype=torch.float32)
        table.embedding_scale.data = torch.tensor(rng.random((N, 2)), dtype=torch.float32)
        arrays |= {f"gemma/{bits}/weight": layer.weight, f"gemma/{bits}/weight_scale": layer.weight_scale}
        arrays |= {f"gemma/{bits}/expected": layer(torch.eye(K)).T}
        arrays |= {f"gemma/{bits}/embedding_scale": table.embedding_scale, f"gemma/{bits}/table": table.weight}
    arrays = {name: tensor.detach().numpy() for name, tensor in arrays.items()}
    np.savez_compressed(Path(sys.argv[1]) / "transformers.npz", allow_pickle=False, **arrays)


if __name__ == "__main__":
    main()
