"""BitNet: ternary weights, four in a byte, with one scale that divides or multiplies.

    weight         uint8 [N/4, K]   bits 2j of row i are w + 1 of row i + j·N/4
    weight_scale   float [1]

linear_class "bitlinear" divides by weight_scale, "autobitlinear" multiplies. Both quantize inputs to eight bits at
every call; that is no part of the weights.

Source: transformers 5.23, integrations/bitnet.py.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dualbinary import InputError
from importer.model import LowBitModel, Numbers, PackedWeight
from importer.readers.directory import FLOATS, Directory, step_of
from importer.readers.words import stacked_rows

__all__ = ["open_bitnet", "recognises"]

_WHERE = "quantization_config"
_IN_BYTE = 4
_NOTE = "inputs were quantized to 8 bits a token at every call; here they are not"


def recognises(_: Path, config: dict[str, Any]) -> bool:
    """Whether config.json says BitNet."""
    block = config.get("quantization_config")
    return isinstance(block, dict) and block.get("quant_method") == "bitnet"


def open_bitnet(path: Path, config: dict[str, Any]) -> LowBitModel:
    """The reader's `open`."""
    block = config[_WHERE]
    layer = block.get("linear_class", "bitlinear")
    mode = block.get("quantization_mode", "offline")
    if layer not in ("bitlinear", "autobitlinear"):
        raise InputError(f"{_WHERE}.linear_class: expected bitlinear or autobitlinear, got {layer!r}")
    if mode != "offline":
        raise InputError(
            f"{_WHERE}.quantization_mode: expected offline, got {mode!r}: the weights are those of training; give the "
            "packed model"
        )
    if block.get("use_rms_norm"):
        raise InputError(f"{_WHERE}.use_rms_norm: norms inside linear layers belong to no weight; give a model without")
    directory = Directory.open(path, config)
    weights = {}
    for module in directory.modules("weight_scale"):
        rows, K = directory.take(f"{module}.weight", ("U8",), (None, None))
        scale = directory.stored[f"{module}.weight_scale"]
        directory.take(f"{module}.weight_scale", FLOATS, () if scale.shape == () else (1,))
        N = _IN_BYTE * rows
        names = [f"{module}.weight", f"{module}.weight_scale"]
        read = _reading(directory, module, N, divides=layer == "bitlinear")
        bits = directory.bits_per_weight(names, N * K)
        weights[module] = PackedWeight("bitnet, ternary, one scale", N, K, 2, -1, bits, read)
    return directory.model(
        "bitnet", weights, ["inputs were quantized to 8 bits a token at every call; here they are not"]
    )


def _reading(directory: Directory, module: str, N: int, *, divides: bool) -> Callable[[], Numbers]:
    def read() -> Numbers:
        q = stacked_rows(directory.array(f"{module}.weight"), 2, N, first_high=False)
        if q.max() > 2:
            raise InputError(f"{module}.weight: expected codes 0, 1 and 2, got 3")
        scale = step_of(directory.array(f"{module}.weight_scale")).reshape(1, 1)
        if not divides:
            return Numbers(q, scale, 1.0)
        if not np.isfinite(scale).all() or not scale.all():
            raise InputError(f"{module}.weight_scale: expected a finite number other than 0, got {float(scale[0, 0])}")
        exact = 1 / scale.astype(np.float64)
        step = exact.astype(np.float32)
        return Numbers(q, step, 1.0, rounding=float(np.max(abs(step / exact - 1))))

    return read
