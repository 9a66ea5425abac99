"""Golden vectors: small cases of the stored layouts and of the op, as JSON that Python and C++ tests read alike.

    { "layout": number, "cases": [ { "name", "P", "C", "M", "N", "K", "group_size", "scale_type",
                                     (even levels alone: "twice_zero")
        "bits":   "0" and "1", one string for each plane and output, K long
        "planes": bytes of the planes tensor in the stored layout, hexadecimal
        "scales": bytes of the scales tensor, little endian, hexadecimal; of type uint8 with 2 + Kp/G of them in a row;
                  in layouts of blocks none
        "x":      M * K numbers
        "y":      M * N numbers } ] }

Inputs are eighths, scales sixteenths, or 128ths of a factor in quarters: so every y is exact in float32, in whatever
order it is summed.
"""

import hashlib
import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np

from dualbinary.contract.code_layout import CODE_PLANES
from dualbinary.contract.layout import CODES, pack_planes, pack_zeros, to_layout
from dualbinary.contract.levels import FREE, GROUP_ZEROS, Levels
from dualbinary.contract.reference import dual_binary_matmul
from dualbinary.contract.schema import OP, padded_k

__all__ = ["file_name", "load", "text"]


@dataclass(frozen=True)
class _Shape:
    name: str
    P: int
    offset: bool
    M: int
    N: int
    K: int
    group_size: int
    scale_type: str = "float16"
    levels: Levels = FREE
    per_tensor: bool = False


SHAPES = (
    _Shape("fdb", 2, False, 1, 3, 64, 64),
    _Shape("fdb_offset", 2, True, 2, 2, 128, 64),
    _Shape("one_plane", 1, False, 1, 2, 32, 32),
    _Shape("qbb_per_channel", 4, True, 1, 2, 96, 96, "float32"),
    _Shape("ragged_k", 2, True, 3, 5, 77, 32),
    _Shape("one_input", 3, False, 2, 1, 1, 32, "float32"),
    _Shape("all_planes", 8, True, 1, 2, 40, 32),
    _Shape("many_rows", 2, False, 9, 17, 33, 32),
    _Shape("coded_scales", 2, False, 2, 3, 96, 32, "uint8"),
    _Shape("coded_offset_ragged_k", 4, True, 1, 5, 77, 32, "uint8"),
)


# For layouts of blocks: more than one block, segments of 32 and 96 inputs, and two of them in a group.
BLOCK_SHAPES = (
    _Shape("two_blocks", 1, True, 1, 33, 64, 64),
    _Shape("segments_of_96", 2, False, 1, 2, 192, 192),
    _Shape("segments_of_32", 1, False, 1, 1, 160, 160, "uint8"),
)


# Even levels, which version 2 of the operator brought: their files are apart, so that those of version 1 never change.
EVEN_SHAPES = (
    _Shape("signs", 1, False, 2, 3, 128, 128, levels=Levels(True, 1)),
    _Shape("ternary_ragged_k", 2, False, 1, 33, 77, 32, levels=Levels(True, 2)),
    _Shape("symmetric_4_bit", 4, False, 2, 2, 64, 32, "float32", levels=Levels(True, 16)),
    _Shape("no_zero", 3, False, 1, 2, 96, 96, levels=Levels(True, 0)),
    _Shape("group_zeros", 4, False, 2, 5, 77, 32, levels=Levels(True, GROUP_ZEROS)),
    _Shape("offset", 4, True, 1, 3, 64, 32, levels=Levels(True, 0)),
    _Shape("groups_of_16", 4, False, 2, 3, 96, 16, levels=Levels(True, 15)),
    _Shape("groups_of_16_odd_zeros", 2, False, 1, 34, 77, 16, levels=Levels(True, GROUP_ZEROS)),
    _Shape("groups_of_16_odd_offset", 3, True, 1, 2, 40, 16, "uint8", levels=Levels(True, 0)),
    _Shape("bfloat16", 2, False, 1, 2, 64, 64, "bfloat16", levels=Levels(True, 3)),
    _Shape("bfloat16_free", 2, True, 1, 2, 64, 64, "bfloat16"),
    _Shape("codes", 8, False, 1, 2, 96, 32, "uint8", levels=Levels(True, 256)),
    _Shape("one_step", 2, False, 1, 3, 70, 96, levels=Levels(True, 2), per_tensor=True),
)


def file_name(layout: int, version: int = 1) -> str:
    """Name of the golden file of the layout of that number, with what that version of the operator brought."""
    return f"layout{layout}.json" if version == 1 else f"layout{layout}_version{version}.json"


def text(layout: int, version: int = 1) -> str:
    """The golden file as it should be; `python -m dualbinary.contract.codegen --golden` writes and checks it."""
    shapes = SHAPES + BLOCK_SHAPES if OP.layout(layout).blocks else SHAPES
    if version > 1:
        shapes = EVEN_SHAPES
    if OP.layout(layout).name == CODES:
        shapes = tuple(shape for shape in shapes if shape.levels.even and shape.P in CODE_PLANES)
    cases = ",\n".join(json.dumps(_case(shape, OP.layout(layout).name)) for shape in shapes)
    return f'{{"layout": {layout}, "cases": [\n{cases}\n]}}\n'


def load(layout: int, version: int = 1) -> list[dict[str, Any]]:
    """The cases of the golden file as it is."""
    return json.loads(files(__name__).joinpath(file_name(layout, version)).read_text(encoding="utf-8"))["cases"]


def _case(shape: _Shape, layout: str) -> dict[str, Any]:
    levels = shape.levels
    C = levels.scale_rows(shape.P) + shape.offset
    groups = padded_k(shape.K, shape.group_size) // shape.group_size
    bits = _integers(shape, "bits", shape.P * shape.N * shape.K).reshape(shape.P, shape.N, shape.K) % 2
    eighths = _integers(shape, "x", shape.M * shape.K).reshape(shape.M, shape.K) % 33 - 16
    x = (eighths / 8).astype(np.float32)
    scales = _scales(shape, C, groups)
    planes = pack_planes(bits, shape.group_size)
    if levels.group_zeros:
        zeros = _integers(shape, "zeros", shape.N * groups).reshape(shape.N, groups) % (1 << shape.P)
        planes = pack_zeros(planes, zeros)
    y = dual_binary_matmul(x, planes, scales, K=shape.K, N=shape.N, group_size=shape.group_size, levels=levels)
    planes, scales = to_layout(layout, planes, scales, shape.K, shape.group_size, levels)
    return {
        "name": shape.name,
        "P": shape.P,
        "C": C,
        "M": shape.M,
        "N": shape.N,
        "K": shape.K,
        "group_size": shape.group_size,
        "scale_type": shape.scale_type,
        **({"twice_zero": levels.twice_zero} if levels.even else {}),
        "bits": ["".join(map(str, row)) for plane in bits.tolist() for row in plane],
        "planes": planes.tobytes().hex(),
        "scales": scales.tobytes().hex(),
        "x": x.ravel().tolist(),
        "y": y.ravel().tolist(),
    }


def _scales(shape: _Shape, C: int, groups: int) -> np.ndarray:
    rows = 1 if shape.per_tensor else shape.N
    integers = _integers(shape, "scales", C * rows * groups).reshape(C, rows, groups)
    if shape.scale_type == "uint8":
        quarters = _integers(shape, "factors", C * shape.N).reshape(C, shape.N, 1) % 17 - 8
        factors = (quarters / 4).astype("<f2").view(np.uint8)  # [C, N, 2]
        return np.concatenate([factors, integers.astype(np.uint8)], axis=2)
    if shape.scale_type == "bfloat16":
        values = ((integers % 65 - 32) / 16).astype(np.float32)
        return (values.view(np.uint32) >> np.uint32(16)).astype("<u2")
    return ((integers % 65 - 32) / 16).astype(np.dtype(shape.scale_type).newbyteorder("<"))


def _integers(shape: _Shape, label: str, count: int) -> np.ndarray:
    """`count` integers 0 .. 255 that no version of NumPy changes, as a random generator's might."""
    stream = hashlib.shake_128(f"{shape.name}/{label}".encode()).digest(count)
    return np.frombuffer(stream, np.uint8).astype(np.int64)
