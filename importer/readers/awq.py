"""AWQ, the packing "gemm": integers packed along the outputs, eight in an order of their own.

    qweight  int32 [K, N·b/32]
    qzeros   int32 [K/G, N·b/32]
    scales   float [K/G, N]

w[n,k] = scales[g,n] · (q[k,n] - zero[g,n]); no zero point is stored less one.

Source: AutoAWQ 0.2.9, awq/modules/linear/gemm.py; for other widths AutoRound 0.16.1, auto_round/utils/bit_packing.py.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dualbinary import InputError
from dualbinary.files.json_objects import read_json_object
from importer.model import LowBitModel, Numbers, PackedWeight
from importer.readers.directory import FLOATS, Directory, bits_of, group_size_of, integer, step_of
from importer.readers.gptq import refuse_transforms
from importer.readers.words import AWQ_ORDER, dense, dense_words

__all__ = ["awq_weights", "open_awq", "recognises"]

_OLD_CONFIG = "quant_config.json"  # of AutoAWQ, beside a config.json without a block
_INTERLEAVED = 8


def recognises(path: Path, config: dict[str, Any]) -> bool:
    """Whether config.json, or a file of AutoAWQ beside it, says AWQ."""
    block = config.get("quantization_config")
    if block is None:
        return path.is_dir() and (path / _OLD_CONFIG).is_file()
    return isinstance(block, dict) and block.get("quant_method") == "awq"


def open_awq(path: Path, config: dict[str, Any]) -> LowBitModel:
    """The reader's `open`."""
    block = config.get("quantization_config")
    block = read_json_object(path / _OLD_CONFIG) if block is None else block
    where = "quantization_config"
    packing = str(block.get("version") or block.get("checkpoint_format") or block.get("format") or "gemm").lower()
    if packing != "gemm":
        raise InputError(f"{where}.version: expected gemm, got {packing!r}; save the model in the packing gemm")
    refuse_transforms(block)
    bits = integer(block, "w_bit" if "w_bit" in block else "bits", where)
    size = integer(block, "q_group_size" if "q_group_size" in block else "group_size", where)
    if bits != 4:
        raise InputError(f"{where}.bits: AWQ has 4 bits, got {bits}; quantize again with 4")
    directory = Directory.open(path, config)
    return directory.model("awq", awq_weights(directory, lambda _: ([bits], [size]), "awq"))


def awq_weights(
    directory: Directory, said: Callable[[str], tuple[list[int], list[int]]], form: str
) -> dict[str, PackedWeight]:
    """All weights in these words; `said` gives the widths and the group sizes that the config has for a module.

    Raises InputError where a tensor is missing, or shapes contradict one another or the config.
    """
    weights = {}
    for module in directory.modules("qweight"):
        K, words = directory.take(f"{module}.qweight", ("I32",), (None, None))
        groups, N = directory.take(f"{module}.scales", FLOATS, (None, None))
        directory.take(f"{module}.qzeros", ("I32",), (groups, words), "as scales and qweight say")
        widths, sizes = said(module)
        if N % _INTERLEAVED:
            raise InputError(f"{module}.scales: expected outputs in eights, got {N}")
        bits = bits_of(module, widths, {b: words == dense_words(b, N) for b in range(2, 9)})
        G = group_size_of(module, sizes, K, groups)
        names = [f"{module}.{part}" for part in ("qweight", "qzeros", "scales")]
        size = "one group a row" if G == -1 else f"groups of {G}"
        kind = f"{form}, {bits} bits, {size}"
        read = _reading(directory, module, bits, N)
        weights[module] = PackedWeight(kind, N, K, bits, G, directory.bits_per_weight(names, N * K), read)
    return weights


def _reading(directory: Directory, module: str, bits: int, N: int) -> Callable[[], Numbers]:
    def read() -> Numbers:
        q = _outputs(directory.array(f"{module}.qweight"), bits, N)
        zeros = _outputs(directory.array(f"{module}.qzeros"), bits, N)
        step = step_of(directory.array(f"{module}.scales").T)
        contiguous = np.ascontiguousarray
        return Numbers(contiguous(q.T), contiguous(step), contiguous(zeros.T).astype(np.int32))

    return read


def _outputs(words: npt.NDArray[np.int32], bits: int, N: int) -> npt.NDArray[np.uint8]:
    """uint8 [rows, N]: the values of each row in their own order."""
    stored = dense(words, bits, N).reshape(len(words), -1, _INTERLEAVED)
    values = np.empty_like(stored)
    values[..., AWQ_ORDER] = stored
    return values.reshape(len(words), N)
