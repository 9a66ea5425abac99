"""Planes and scales in every stored layout: dualbinary.contract, which checks them before it unpacks."""

import struct
from collections.abc import Iterator

import numpy as np

from dualbinary import InputError
from dualbinary.contract.layout import check_tensors, dequantize, to_layout, to_plain
from dualbinary.contract.levels import Levels
from dualbinary.contract.schema import OP
from dualbinary.contract.weight import PlaneFormat

NAME = "planes"

_HEAD = struct.Struct("<BBBbIIIHHHHHH")  # layout, type of scales, even, zero, N, K, G, dimensions of planes and scales
_TYPES = (np.float16, np.float32, np.uint8, np.uint16)
_FORMS = (
    PlaneFormat(2, 32, True),
    PlaneFormat(1, 64, False),
    PlaneFormat(4, 32, False, levels="even", zero=8),
    PlaneFormat(2, 32, True, scale_dtype=np.dtype(np.uint8)),
)


def seeds() -> Iterator[bytes]:
    """Weights of some forms, in every layout that holds them."""
    rng, n, k = np.random.default_rng(0), 40, 96
    for form in _FORMS:
        planes, scales = form.shapes(n, k)
        values = rng.integers(0, 256, planes).astype(np.uint8)
        kind = 2 if form.scale_dtype == np.uint8 else 0
        factors = rng.integers(60, 64, scales).astype(np.uint8) if kind == 2 else np.ones(scales, np.float16)
        levels = form.node_levels
        for number, layout in enumerate(OP.layouts):
            try:
                stored = to_layout(layout.name, values, factors, k, form.group_size, levels)
            except InputError:
                continue
            shapes = [*stored[0].shape, 0][:3] + [*stored[1].shape, 0][:3]
            if max(shapes) < 1 << 16:
                head = (number, kind, levels.even, levels.twice_zero, n, k, form.group_size, *shapes)
                yield _HEAD.pack(*head) + stored[0].tobytes() + stored[1].tobytes()


def try_input(data: bytes) -> None:
    """Bring the weight to layout plain, check it, and compute its values."""
    if len(data) < _HEAD.size:
        return
    layout, kind, even, zero, n, k, group, *shapes = _HEAD.unpack_from(data)
    planes, scales = (tuple(size for size in shape if size) for shape in (shapes[:3], shapes[3:]))
    dtype = np.dtype(_TYPES[kind % len(_TYPES)])
    first, second = int(np.prod(planes)), int(np.prod(scales)) * dtype.itemsize
    content = data[_HEAD.size :].ljust(min(first + second, 1 << 20), b"\0")
    if len(content) < first + second:
        return
    stored = np.frombuffer(content[:first], np.uint8).reshape(planes)
    factors = np.frombuffer(content[first : first + second], dtype).reshape(scales)
    try:
        levels = Levels(bool(even), zero)
        plain = to_plain(OP.layouts[layout % len(OP.layouts)].name, stored, factors, k, group, levels)
        check_tensors(*plain, n, k, group, "weight", levels)
        with np.errstate(all="ignore"):
            dequantize(*plain, k, group, levels)
    except InputError:
        pass
