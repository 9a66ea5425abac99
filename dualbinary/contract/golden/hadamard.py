"""Golden vectors of SignedHadamard, as JSON that Python and C++ tests read alike.

    { "cases": [ { "name", "M", "K", "block_size", "inverse",
        "signs": K times 1 or -1
        "x":     M * K numbers
        "y":     M * K numbers } ] }

Block sizes are powers of four and inputs are eighths, so that every y is exact in float32 and float16, in whatever
order it is summed.
"""

import hashlib
import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np

from dualbinary.contract.hadamard import signed_hadamard

__all__ = ["FILE_NAME", "load", "text"]

FILE_NAME = "signed_hadamard.json"


@dataclass(frozen=True)
class _Shape:
    name: str
    M: int
    K: int
    block_size: int
    inverse: int = 0


SHAPES = (
    _Shape("four", 2, 12, 4),
    _Shape("four_inverse", 1, 20, 4, 1),
    _Shape("sixteen", 1, 48, 16),
    _Shape("sixteen_inverse", 2, 32, 16, 1),
    _Shape("sixty_four", 1, 192, 64),
    _Shape("two_hundred_fifty_six", 1, 256, 256, 1),
)


def text() -> str:
    """The golden file as it should be; `python -m dualbinary.contract.codegen --golden` writes and checks it."""
    return '{"cases": [\n' + ",\n".join(json.dumps(_case(shape)) for shape in SHAPES) + "\n]}\n"


def load() -> list[dict[str, Any]]:
    """The cases of the golden file as it is."""
    return json.loads(files("dualbinary.contract.golden").joinpath(FILE_NAME).read_text(encoding="utf-8"))["cases"]


def _case(shape: _Shape) -> dict[str, Any]:
    stream = hashlib.shake_128(shape.name.encode()).digest((shape.M + 1) * shape.K)  # the same for every NumPy
    integers = np.frombuffer(stream, np.uint8).astype(np.int64).reshape(shape.M + 1, shape.K)
    x = (integers[1:] % 33 - 16) / 8
    signs = 1 - 2 * (integers[0] % 2)
    y = signed_hadamard(x, signs, shape.block_size, bool(shape.inverse))
    return {
        "name": shape.name,
        "M": shape.M,
        "K": shape.K,
        "block_size": shape.block_size,
        "inverse": shape.inverse,
        "signs": signs.tolist(),
        "x": x.ravel().tolist(),
        "y": y.ravel().tolist(),
    }
