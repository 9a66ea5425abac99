"""A tiny llama as a LowBitModel of random numbers: for the importer's and the exporter's tests."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from importer.model import LowBitModel, Numbers, PackedWeight, PlainTensor

Make = Callable[[np.random.Generator, int, int], tuple[Numbers, int, int]]


def even_numbers(rng, N, K, *, bits=4, group_size=32, zero=8.0, order=False):
    """Random numbers of an even form, with bits and group size."""
    groups = -(-K // group_size)
    step = (0.02 * rng.uniform(0.5, 1, (N, groups))).astype(np.float16)
    q = rng.integers(0, 1 << bits, (N, K)).astype(np.uint8)
    permutation = rng.permutation(K).astype(np.int32) if order else None
    return Numbers(q, step, zero, order=permutation), bits, group_size


def low_bit_model(model_dir: Path, make: Mapping[str, Make] | None = None, *, tables: bool = False) -> LowBitModel:
    """`model_dir` with random numbers for its linear layers and, if asked for, its `tables`.

    `make` makes those of some, by the last part of their name.
    """
    rng = np.random.default_rng(0)
    config = json.loads((model_dir / "config.json").read_text())
    weights, tensors = {}, {}
    for name, tensor in load_file(model_dir / "model.safetensors").items():
        module = name.removesuffix(".weight")
        if tensor.dim() == 2 and (tables or ("embed" not in name and "lm_head" not in name)):
            N, K = tensor.shape
            numbers, bits, group_size = (make or {}).get(module.rpartition(".")[2], even_numbers)(rng, N, K)
            weights[module] = PackedWeight("test", N, K, bits, group_size, bits + 0.5, lambda n=numbers: n)
        else:
            array = tensor.numpy()
            tensors[name] = PlainTensor(array.shape, array.dtype, lambda a=array: a)
    return LowBitModel("test", config, weights, tensors, lambda: {"note.txt": "hello"})
