"""What every reader gives: a model whose weights are integers, known from headers, its numbers read when asked for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dualbinary.contract.rotation import Rotation

__all__ = ["InexactWeight", "LowBitModel", "Numbers", "PackedWeight", "PlainTensor", "rounding_note"]


@dataclass(frozen=True, eq=False)
class Numbers:
    """A weight [N, K] of even levels: w[n,k] = step[n,g] * (q[n,k] - zero[n,g]), or step[n,g] * q[n,k] + offset[n,g].

    Groups are G consecutive columns of q.

    Attributes:
        q: uint8 [N, K], each from 0 to 2^bits - 1.
        step: [N, groups], or [1, 1] for one of the whole weight; float16 or float32, of any sign. A bfloat16 step comes
            as the float32 of its value.
        zero: a multiple of 1/2 for all groups, or integers [N, groups]; None beside an offset.
        offset: of the type and shape of `step`, or None.
        order: int32 [K] where columns were regrouped: column k of q multiplies input order[k] (GPTQ's act-order).
        rounding: the largest relative change of a step or offset that this reading made, 0 where they are as stored.
    """

    q: npt.NDArray[np.uint8]
    step: npt.NDArray[np.floating]
    zero: float | npt.NDArray[np.integer] | None
    offset: npt.NDArray[np.floating] | None = None
    order: npt.NDArray[np.int32] | None = None
    rounding: float = 0.0


@dataclass(frozen=True)
class PackedWeight:
    """A weight of a linear layer or a vocabulary table, known from headers.

    Attributes:
        kind: the stored form in its own words, such as "Q4_K" or "gptq, 4 bits, groups of 128".
        N: outputs, or rows of the table.
        K: inputs.
        bits: P, 1 to 8.
        group_size: G, 16 or a multiple of 32; -1 for all of a row.
        source_bits: bits per weight of the stored form, scales and zero points included.
        read: reads the numbers. Raises InputError, naming the tensor, where they contradict themselves.
        rotation: of the inputs that it multiplies, or of the rows of the table; None where there is none.
    """

    kind: str
    N: int
    K: int
    bits: int
    group_size: int
    source_bits: float
    read: Callable[[], Numbers]
    rotation: Rotation | None = None


@dataclass(frozen=True)
class InexactWeight:
    """A weight [N, K] whose levels are not even, so that it can only be dequantized and fitted again.

    Attributes:
        kind: the stored form in its own words, such as "IQ2_XS".
        N: outputs, or rows of the table.
        K: inputs.
        source_bits: bits per weight of the stored form.
        why: what keeps it from being exact, for people: "its levels are vectors of a codebook".
        read: returns float32 [N, K]; None where nobody here can dequantize it.
        rotation: as that of a packed weight.
    """

    kind: str
    N: int
    K: int
    source_bits: float
    why: str
    read: Callable[[], npt.NDArray[np.float32]] | None
    rotation: Rotation | None = None


@dataclass(frozen=True)
class PlainTensor:
    """A tensor that stays as it is.

    Attributes:
        shape: its dimensions.
        dtype: float16, bfloat16 (of ml_dtypes) or float32.
        read: returns it.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[], np.ndarray]

    def as_float(self, change: Callable[[npt.NDArray[np.float32]], np.ndarray]) -> "PlainTensor":
        """The tensor as float32, changed by a function that keeps its shape."""
        return PlainTensor(self.shape, np.dtype(np.float32), lambda: change(self.read().astype(np.float32)))


@dataclass(frozen=True)
class LowBitModel:
    """A model of another tool, opened: everything that headers tell is checked.

    Attributes:
        format: the name of its reader, such as "gguf".
        config: config.json of the full-precision model, without a quantization block.
        weights: by the name of the module in transformers ("model.layers.0.self_attn.q_proj"); the token embedding
            and an untied head are modules, too.
        tensors: all other tensors by their name in transformers.
        files: gives the small files of the checkpoint, tokenizer and templates: name to content, or to a file to copy.
            Raises InputError where a tokenizer cannot be converted, which takes a while and is not done before.
        notes: what a user should know: decisions of the reader, what was left out and why.
        inexact: by module, weights that are refused unless a user asks for a new fit (--requantize).
    """

    format: str
    config: dict[str, Any]
    weights: Mapping[str, PackedWeight]
    tensors: Mapping[str, PlainTensor]
    files: Callable[[], Mapping[str, str | Path]] = dict
    notes: tuple[str, ...] = ()
    inexact: Mapping[str, InexactWeight] = field(default_factory=dict[str, InexactWeight])


def rounding_note(rounding: Mapping[str, float]) -> str:
    """What a user should know of `rounding`: by weight, of one at least, the largest relative change of a scale."""
    name, largest = max(rounding.items(), key=lambda entry: entry[1])
    return f"scales of {len(rounding)} weights rounded once to float16, by {largest:.1e} at most ({name})"
