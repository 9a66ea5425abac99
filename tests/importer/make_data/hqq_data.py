"""Makes hqq.npz: layers that hqq 0.2.8.post1 quantized, with all that they store, and what they dequantize to.

With hqq 0.2.8.post1, termcolor, torch 2.13:

    python tests/importer/make_data/hqq_data.py tests/importer/data
"""
# pyright: reportMissingImports=false

import sys
from pathlib import Path

import numpy as np
import torch
from hqq.core.quantize import BaseQuantizeConfig, HQQLinear

N, K = 8, 64


def main():
    torch.manual_seed(20261128)
    arrays = {}
    for bits, size in ((1, 32), (2, None), (3, 32), (4, 32), (4, 16), (8, 64), (1.58, 32)):
        linear = torch.nn.Linear(K, N, bias=False)
        config = BaseQuantizeConfig(nbits=bits, group_size=size, axis=1)
        layer = HQQLinear(linear, config, compute_dtype=torch.float16, device="cpu")
        state = layer.state_dict()
        layer.meta["compute_dtype"] = torch.float32  # the same numbers, multiplied in float32
        layer.meta |= {key: layer.meta[key].float() for key in ("scale", "zero")}
        expected = layer.dequantize()
        assert expected.dtype == torch.float32
        name = f"{bits}/{size}"
        arrays |= {f"{name}/{key}": value.detach().numpy() for key, value in state.items()}
        arrays |= {f"{name}/{key}": state[key].half().numpy() for key in ("scale", "zero")}
        arrays[f"{name}/expected"] = expected.detach().numpy()
    np.savez_compressed(Path(sys.argv[1]) / "hqq.npz", **arrays)


if __name__ == "__main__":
    main()
