"""A model of this project, opened: its weights in planes, from whichever file, under the names of transformers."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dualbinary import InputError
from dualbinary.contract.weight import PlaneWeight
from importer.model import PlainTensor

__all__ = ["OwnModel", "OwnWeight", "refuse_rotated"]

_WEIGHTS = 1 << 21  # unpacked at a time


@dataclass(frozen=True)
class OwnWeight:
    """A weight [N, K] in planes.

    Attributes:
        N: outputs, or rows of a vocabulary table.
        K: inputs.
        read: reads it, in layout plain. Raises InputError where it breaks the contract.
        read_order: the order of its inputs, int32 [K], where column k multiplies input order[k]; None elsewhere.
    """

    N: int
    K: int
    read: Callable[[], PlaneWeight]
    read_order: Callable[[], npt.NDArray[np.int32] | None] = lambda: None


@dataclass(frozen=True)
class OwnModel:
    """A model.

    Attributes:
        path: the file or directory it was opened from.
        directory: where its small files are: tokenizer, templates.
        config: config.json without a quantization block.
        weights: by module.
        tensors: all others, by the name of the parameter.
    """

    path: Path
    directory: Path
    config: dict[str, Any]
    weights: Mapping[str, OwnWeight]
    tensors: Mapping[str, PlainTensor]


def refuse_rotated(path: Path, name: str) -> None:
    """Raise InputError for the weight `name`, which multiplies rotated inputs."""
    raise InputError(
        f"{path}: {name} multiplies inputs after a Walsh-Hadamard transform, which neither llama.cpp nor "
        "readers of GPTQ compute; give a model without rotations"
    )


def parts_of(weight: PlaneWeight, rows: npt.NDArray[np.intp] | None = None) -> Iterator[PlaneWeight]:
    """The outputs of a weight, in the order of `rows`, so many at a time as are unpacked together."""
    step = max(1, _WEIGHTS // weight.K)
    for begin in range(0, weight.N, step):
        end = min(begin + step, weight.N)
        yield weight.rows(slice(begin, end) if rows is None else rows[begin:end])
