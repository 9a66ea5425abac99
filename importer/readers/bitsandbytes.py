"""bitsandbytes, eight bits (LLM.int8): a scale for each output. Its four-bit types have uneven levels and are refused.

    weight         int8 [N, K]
    SCB            float32 [N]      the largest absolute value of each row
    weight_format  uint8 []         0: rows as they are

w[n,k] = weight[n,k] · SCB[n] / 127. The quotient is rounded to float32 once.

Source: bitsandbytes 0.50.2, bitsandbytes/backends/default/ops.py and bitsandbytes/nn/modules.py.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dualbinary import InputError
from importer.model import LowBitModel, Numbers, PackedWeight
from importer.readers.directory import Directory, signed

__all__ = ["open_bitsandbytes", "recognises"]

_LARGEST = 127


def recognises(_: Path, config: dict[str, Any]) -> bool:
    """Whether config.json says bitsandbytes."""
    block = config.get("quantization_config")
    return isinstance(block, dict) and (
        block.get("quant_method") == "bitsandbytes" or block.get("load_in_8bit") or block.get("load_in_4bit") or False
    )


def open_bitsandbytes(path: Path, config: dict[str, Any]) -> LowBitModel:
    """The reader's `open`."""
    block = config["quantization_config"]
    if block.get("load_in_4bit") or not block.get("load_in_8bit"):
        kind = str(block.get("bnb_4bit_quant_type", "fp4")).upper()
        raise InputError(
            f"quantization_config: bitsandbytes {kind}: its levels are not even, so they are no sums of planes; give "
            "the full-precision model"
        )
    directory = Directory.open(path, config)
    weights = {}
    for module in directory.modules("SCB"):
        N, K = directory.take(f"{module}.weight", ("I8",), (None, None))
        directory.take(f"{module}.SCB", ("F32",), (N,))
        names = [f"{module}.weight", f"{module}.SCB"]
        _check_format(directory, f"{module}.weight_format")
        bits = directory.bits_per_weight(names, N * K)
        read = _reading(directory, module)
        weights[module] = PackedWeight("bitsandbytes, 8 bits, one scale a row", N, K, 8, -1, bits, read)
    threshold = block.get("llm_int8_threshold", 6.0)
    note = f"inputs below {threshold} were quantized to 8 bits at every call; here they are not"
    return directory.model("bitsandbytes", weights, [note])


def _check_format(directory: Directory, name: str) -> None:
    if name in directory.stored:
        directory.used.add(name)
        if directory.array(name).any():
            raise InputError(f"{name}: expected 0, rows as they are, got another order; save the model again on a CPU")


def _reading(directory: Directory, module: str) -> Callable[[], Numbers]:
    def read() -> Numbers:
        q = signed(f"{module}.weight", directory.array(f"{module}.weight"), 8)
        exact = directory.array(f"{module}.SCB").astype(np.float64).reshape(-1, 1) / _LARGEST
        step = exact.astype(np.float32)
        changed = np.divide(step - exact, exact, out=np.zeros_like(exact), where=exact != 0)
        return Numbers(q, step, float(1 << 7), rounding=float(abs(changed).max()))

    return read
