"""HQQ, groups along the inputs (axis 1): zero points are fractions, so most become offsets.

    W_q     uint8 [R·b/8, G] or int32 [ceil(R/10), G]   rows are groups, R = N·K/G of them; the first rows are in the
                                                        highest bits; ten values of three bits are the lower
                                                        30 bits of a word
    scale   float [R, 1], zero float [R, 1]
    shape, nbits, group_size, axis, packing, ...        what the layer was made with, as small tensors

w = scale · (q - zero). The product of two float16 is exact in float32, so an offset -scale·zero is.

Source: hqq 0.2.8.post1, hqq/core/bitpack.py and hqq/core/quantize.py.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dualbinary import InputError
from dualbinary.checkpoint import quantized_by
from dualbinary.files.model_files import CONFIG_FILE
from importer.model import LowBitModel, Numbers, PackedWeight
from importer.readers.directory import FLOATS, Directory, group_size_of, step_of
from importer.readers.words import stacked_rows

__all__ = ["open_hqq", "recognises"]

# A packing: bits of a field, type of a word.
_PACKINGS = {
    "8bit_u8": (8, np.uint8),
    "4bit_u8": (4, np.uint8),
    "3bit_32": (3, np.int32),
    "2bit_u8": (2, np.uint8),
    "1bit_u8": (1, np.uint8),
}

_SETTINGS = (
    r"nbits|group_size|shape|axis|packing|unpack_view_dtype|view_as_float|quant_scale|quant_zero|compute_dtype|offload_meta"
    r"|encoded_state_dict|stores_quant_config|channel_wise|optimize|round_zero"
)


def recognises(path: Path, config: dict[str, Any]) -> bool:
    """Whether config.json says HQQ, or, as hqq writes a directory itself, the names of the tensors."""
    block = config.get("quantization_config")
    if block is None:
        return (path / CONFIG_FILE).is_file() and quantized_by(path) == '"hqq"'
    return isinstance(block, dict) and block.get("quant_method") == "hqq"


def open_hqq(path: Path, config: dict[str, Any]) -> LowBitModel:
    """The reader's `open`."""
    directory = Directory.open(path, config)
    weights = {}
    for module in directory.modules("W_q"):
        weights[module] = _weight(directory, module)
        directory.drop(rf"{re.escape(module)}\.({_SETTINGS})")
    return directory.model("hqq", weights)


def _weight(directory: Directory, module: str) -> PackedWeight:
    if _number(directory, module, "axis") != 1:
        raise InputError(f"{module}.axis: expected 1, got 0: its groups run over outputs; quantize again with axis 1")
    for key in ("quant_scale", "quant_zero"):
        if f"{module}.{key}" in directory.stored and _number(directory, module, key):
            raise InputError(f"{module}.{key}: scales that are quantized themselves; quantize again without")
    directory.take(f"{module}.shape", ("I64", "I32"), (2,))
    N, K = (int(length) for length in directory.array(f"{module}.shape"))
    size = int(_number(directory, module, "group_size"))
    name = (
        bytes(directory.array(f"{module}.packing").astype(np.uint8)) if f"{module}.packing" in directory.stored else b""
    )
    packing = _PACKINGS.get(name.decode("latin-1"))
    if packing is None:
        raise InputError(f"{module}.packing: expected {', '.join(_PACKINGS)}, got {name.decode('latin-1')!r}")
    if N < 1 or K < 1 or size < 1 or K % size:
        raise InputError(f"{module}.group_size: {size} does not divide the {K} inputs of shape [{N}, {K}]")
    field, word = packing
    bits = _bits(_number(directory, module, "nbits"), field, module)
    R, fields = N * (K // size), 8 * np.dtype(word).itemsize // field
    if word is np.uint8 and R % fields:  # hqq 0.2.8 drops or repeats groups then, and cannot dequantize them itself
        raise InputError(
            f"{module}.W_q: {R} groups do not fill bytes of {fields} integers; quantize again in other groups"
        )
    _check_words(directory, module, np.dtype(word), -(-R // fields), size)
    for part in ("scale", "zero"):
        directory.take(f"{module}.{part}", FLOATS, (R, 1), "one for each group")
    G = group_size_of(module, [size], K, K // size)
    names = [f"{module}.{part}" for part in ("W_q", "scale", "zero")]

    def q() -> npt.NDArray[np.uint8]:
        words = directory.array(f"{module}.W_q").view(word)
        codes = stacked_rows(words, field, R, first_high=True).reshape(N, K)
        if codes.max() >> bits:
            raise InputError(f"{module}.W_q: expected integers of {bits} bits, got {codes.max()}")
        return codes

    read = _reading(directory, module, q, (N, K // size))
    kind = f"hqq, {bits} bits, groups of {size}"
    return PackedWeight(kind, N, K, bits, G, directory.bits_per_weight(names, N * K), read)


def _reading(
    directory: Directory, module: str, q: Callable[[], npt.NDArray[np.uint8]], shape: tuple[int, int]
) -> Callable[[], Numbers]:
    def read() -> Numbers:
        step = step_of(directory.array(f"{module}.scale")).reshape(shape)
        zero = directory.array(f"{module}.zero").astype(np.float64).reshape(shape)
        if not np.isfinite(zero).all():
            raise InputError(f"{module}.zero: holds a value that is not finite")
        if (zero == np.round(zero)).all() and abs(zero).max() < 1 << 15:
            return Numbers(q(), step, zero.astype(np.int32))
        exact = -zero * step.astype(np.float64)
        offset = exact.astype(np.float32)
        changed = np.divide(offset - exact, exact, out=np.zeros_like(exact), where=exact != 0)
        return Numbers(q(), step.astype(np.float32), None, offset, rounding=float(abs(changed).max()))

    return read


def _number(directory: Directory, module: str, key: str) -> float:
    name = f"{module}.{key}"
    stored = directory.stored.get(name)
    if stored is None or stored.shape not in ((), (1,)):
        raise InputError(f"{name}: expected one number, got {'nothing' if stored is None else list(stored.shape)}")
    directory.used.add(name)
    return float(directory.array(name).reshape(()))


def _bits(stored: float, field: int, module: str) -> int:
    """Width of the levels; 1.58 is three levels in fields of two bits."""
    bits = int(np.ceil(stored))
    if not 1 <= bits <= field or (field < 8 and bits != field):
        raise InputError(f"{module}.nbits: {stored:g} bits do not stand in fields of {field}")
    return bits


def _check_words(directory: Directory, module: str, word: np.dtype[Any], rows: int, size: int) -> None:
    """Hold W_q against its shape; words may be stored as floats of the same bits (view_as_float)."""
    name = f"{module}.W_q"
    stored = directory.stored[name]
    per_float = {"F16": 2, "BF16": 2, "F32": 4}.get(stored.dtype)
    if per_float is None:
        directory.take(name, ("U8",) if word.itemsize == 1 else ("I32",), (rows, size))
    else:
        directory.take(name, (stored.dtype,), (rows, size * word.itemsize // per_float))
