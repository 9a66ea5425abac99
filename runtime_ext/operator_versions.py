"""The operator sets that an ONNX file imports, read without the package onnx, which a device does not have.

A ModelProto is a sequence of fields, each a number that says field and kind, and its value. Field 8 are the imports,
whose fields are 1, a domain, and 2, a version (onnx.proto). The graph is one field and is stepped over.
"""

import mmap
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

__all__ = ["opset_imports"]

_IMPORTS, _DOMAIN, _VERSION = 8, 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MOST_BYTES = 10  # of a number of 64 bits


def opset_imports(path: Path) -> dict[str, int]:
    """Versions by domain, "" for that of ONNX. What cannot be read has none: ONNX Runtime says what is wrong."""
    found: dict[str, int] = {}
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        suppress(IndexError, ValueError),
    ):
        for field, value in _fields(data, 0, len(data)):
            if field == _IMPORTS and isinstance(value, slice):
                entry = dict(_fields(data, value.start, value.stop))
                domain, version = entry.get(_DOMAIN, slice(0, 0)), entry.get(_VERSION, 0)
                if isinstance(domain, slice) and isinstance(version, int):
                    found[bytes(data[domain]).decode("utf-8", "replace")] = version
    return found


def _fields(data: mmap.mmap, begin: int, end: int) -> Iterator[tuple[int, int | slice]]:
    """Numbers of fields, and their values: where the bytes of one lie, or a number. Raises ValueError."""
    at = begin
    while at < end:
        key, at = _number(data, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _number(data, at)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            size, at = _number(data, at)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"a field of kind {kind}")
        if size > end - at:
            raise ValueError("a field that ends behind its message")
        yield key >> 3, slice(at, at + size)
        at += size


def _number(data: mmap.mmap, at: int) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first, and where it ends. Raises IndexError or ValueError."""
    value = 0
    for place in range(_MOST_BYTES):
        byte = data[at + place]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, at + place + 1
    raise ValueError("a number of more than 64 bits")
