"""Where an ONNX file says that its data are: checked on the bytes of the file, before anybody follows it.

A device that runs models has no onnx, and what it has, ONNX Runtime, is not to see a path that leaves the model's
folder. So the fields of the file are walked here, as protobuf lays them out: a key (number and kind of the field), then
a number, or a length and as many bytes. Only messages that can hold tensors are entered, and weights are stepped over.

https://protobuf.dev/programming-guides/encoding/, and onnx/onnx.proto for the numbers of the fields
"""

import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dualbinary.errors import InputError

__all__ = ["check_external_data", "is_plain_location"]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # kinds of fields; 3 and 4 are groups, which no ONNX file has
_TENSOR, _ENTRIES = "TensorProto", 13
_KEY, _VALUE = 1, 2  # of an entry of external_data
_LOCATION = b"location"  # the key of the entry that names the file
# For each message that can hold tensors, the fields that lead to them.
_WAYS = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "GraphProto": {1: "NodeProto", 5: _TENSOR, 15: "SparseTensorProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {5: _TENSOR, 6: "GraphProto", 10: _TENSOR, 11: "GraphProto", 22: "SparseTensorProto"}
    | {23: "SparseTensorProto"},
    "SparseTensorProto": {1: _TENSOR, 2: _TENSOR},
}
_MOST_NESTING = 100  # messages in one another, which is protobuf's own limit
_LARGEST = (1 << 63) - 1  # of an offset, which is a signed number wherever it is read
# Names with / between them, of characters that no system and no program has another meaning for.
_PLAIN = re.compile(r"(?!\.{1,2}(/|\Z))[^/\\:*?\"<>|\x00-\x1f]+(/(?!\.{1,2}(/|\Z))[^/\\:*?\"<>|\x00-\x1f]+)*")


@dataclass(frozen=True)
class _Field:
    """A field of a message: its number, and where its bytes are."""

    number: int
    begin: int
    end: int


class _MalformedError(Exception):
    """The bytes are no messages of protobuf."""


def is_plain_location(location: str) -> bool:
    """Whether a path is one below the folder that it is relative to, on every system and without following links."""
    return _PLAIN.fullmatch(location) is not None


def check_external_data(path: Path) -> None:
    """Raise InputError where tensors of the ONNX file `path` have data outside of its folder, or beyond their file.

    A file that is no ONNX file is refused, too, but for one that is empty or cannot be read.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            found = list(_external(content))
    except _MalformedError:
        raise InputError(
            f"{path}: it is cut off, damaged, or no ONNX file; copy it again and compare its size with the original's"
        ) from None
    except (OSError, ValueError):  # an empty file cannot be mapped; whoever loads it says what is wrong
        return
    for entries in found:
        _check(path, entries)


def _check(path: Path, entries: list[tuple[str, str]]) -> None:
    numbers = {"offset": 0, "length": 0}
    data = path
    for key, value in entries:
        if key == _LOCATION.decode():
            if not is_plain_location(value):
                raise InputError(
                    f"{path}: its data file is {_shown(value)}, which does not lie beside it; export the model again, "
                    "and trust no file that asks for others of this machine"
                )
            data = path.parent / value
        elif key in numbers:
            if re.fullmatch("[0-9]{1,19}", value) is None or int(value) > _LARGEST:
                raise InputError(f"{path}: {key} of its data: expected 0 to {_LARGEST}, got {_shown(value)}")
            numbers[key] = int(value)
    if data.is_file() and sum(numbers.values()) > (size := data.stat().st_size):
        raise InputError(
            f"{path}: its data file has {size} bytes, less than it needs: cut off, or that of another model; copy it "
            "again"
        )


def _shown(value: str) -> str:
    return ascii(value if len(value) <= 80 else f"{value[:77]}...")


def _external(content: mmap.mmap) -> Iterator[list[tuple[str, str]]]:
    """The entries of each tensor whose data are said to be outside, as (key, value)."""
    waiting = [("ModelProto", 0, len(content), 0)]
    while waiting:
        message, begin, end, depth = waiting.pop()
        if depth > _MOST_NESTING:
            raise _MalformedError
        # Most nodes hold no such tensor, and a search takes a thousandth of the time of a walk.
        if content.find(_LOCATION, begin, end) < 0 and depth > 1:
            continue
        if message == _TENSOR:
            fields = [field for field in _fields(content, begin, end) if field.number == _ENTRIES]
            if fields:
                yield [_entry(content, field) for field in fields]
            continue
        ways = _WAYS[message]
        for field in _fields(content, begin, end):
            if field.number in ways:
                waiting.append((ways[field.number], field.begin, field.end, depth + 1))


def _entry(content: mmap.mmap, entry: _Field) -> tuple[str, str]:
    texts = {_KEY: "", _VALUE: ""}
    for field in _fields(content, entry.begin, entry.end):
        if field.number in texts:
            texts[field.number] = content[field.begin : field.end].decode("utf-8", "surrogateescape")
    return texts[_KEY], texts[_VALUE]


def _fields(content: mmap.mmap, begin: int, end: int) -> Iterator[_Field]:
    """The fields of a message that have bytes; numbers are stepped over. Raises _MalformedError."""
    at = begin
    while at < end:
        key, at = _varint(content, at, end)
        kind = key & 7
        if kind == _VARINT:
            _, at = _varint(content, at, end)
            continue
        if kind == _BYTES:
            length, at = _varint(content, at, end)
        elif kind == _FIXED64:
            length = 8
        elif kind == _FIXED32:
            length = 4
        else:
            raise _MalformedError
        if length > end - at:
            raise _MalformedError
        if kind == _BYTES:
            yield _Field(key >> 3, at, at + length)
        at += length


def _varint(content: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first, and where it ends."""
    value = shift = 0
    while at < end:
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
        if shift > 63:
            break
    raise _MalformedError
