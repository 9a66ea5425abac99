"""The container of GGUF: header, metadata and the table of tensors, read with suspicion.

No number of a file is believed before the size of the file bears it out: nothing is allocated and no loop runs by a
count that could not have so many entries. Data stays where it is, in the mapped file.

    "GGUF", version, number of tensors, number of keys
    keys:     name, type, value
    tensors:  name, dimensions (fastest first), type, offset
    padding to a multiple of the alignment, then each tensor at its offset, padded alike

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import mmap
import os
import re
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shown
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from dualbinary import InputError
from importer.readers.gguf.types import TYPES, StoredType, unknown_type

__all__ = ["MAGIC", "Container", "GgufTensor", "open_container"]

MAGIC = b"GGUF"
_VERSIONS = (2, 3)  # they differ in nothing but a byte order that can be big since 3
_SCALARS = {
    0: np.dtype("<u1"),
    1: np.dtype("<i1"),
    2: np.dtype("<u2"),
    3: np.dtype("<i2"),
    4: np.dtype("<u4"),
    5: np.dtype("<i4"),
    6: np.dtype("<f4"),
    7: np.dtype("<u1"),  # 0 or 1
    10: np.dtype("<u8"),
    11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}
_BOOL, _STRING, _ARRAY = 7, 8, 9
_MAX_NESTING = 2  # of arrays; no known file nests them
_MAX_NAME = 256  # letters; ggml has 64 for a tensor
_MAX_DIMENSIONS = 4  # of ggml
_MIN_KEY, _MIN_TENSOR = 13, 32  # bytes of the smallest entries: a name of no letters, and the fixed fields
_ALIGNMENT = 32  # where no key says another
_MAX_ALIGNMENT = 1 << 20
_SPLIT_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


@dataclass(frozen=True, eq=False)
class GgufTensor:
    """A tensor of the table.

    Attributes:
        name: in the file.
        shape: outermost first, so [N, K] of a weight.
        type: of its blocks.
        data: uint8, the bytes in the mapped file; a row is a whole number of blocks.
        begin: of `data` in the file.
        file: the map; None where `data` is none of a file.
    """

    name: str
    shape: tuple[int, ...]
    type: StoredType
    data: npt.NDArray[np.uint8]
    begin: int = 0
    file: mmap.mmap | None = None

    def release(self) -> None:
        """Let its pages go, which would count as memory of this process; `data` can be read again all the same."""
        if self.file is not None and hasattr(mmap, "MADV_DONTNEED"):
            first = self.begin // mmap.PAGESIZE * mmap.PAGESIZE
            self.file.madvise(mmap.MADV_DONTNEED, first, self.begin + len(self.data) - first)


@dataclass(frozen=True, eq=False)
class Container:
    """A file, or all parts of a split one.

    Attributes:
        path: the file, or the first part.
        metadata: by key: int, float, bool, str, a NumPy array of numbers, or a list of strings or of arrays.
        tensors: by name, in the order of the file.
    """

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]


def open_container(path: Path) -> Container:
    """The container `path`, the first part of a split file with all others beside it.

    Raises InputError for whatever is not version 2 or 3 in little-endian byte order, or is damaged.
    """
    first = _open_file(path)
    count = _split_number(first, "split.count", 1)
    if count == 1:
        return first
    if _split_number(first, "split.no", 0) != 0:
        raise InputError(f"{path}: a part of a split file; give its first part")
    tensors = dict(first.tensors)
    for number, part_path in enumerate(_parts(path, count)[1:], start=1):
        part = _open_file(part_path)
        _check_part(part, first, number, count)
        for name, tensor in part.tensors.items():
            if name in tensors:
                raise InputError(f"{part_path}: tensor {name!r} is in an earlier part, too")
            tensors[name] = tensor
    expected = _split_number(first, "split.tensors.count", len(tensors))
    if expected != len(tensors):
        raise InputError(f"{path}: expected {expected} tensors in {count} parts, got {len(tensors)}")
    return Container(path, first.metadata, tensors)


def _split_number(part: Container, key: str, default: int) -> int:
    value = part.metadata.get(key, default)
    if type(value) is not int or value < 0:
        raise InputError(f"{part.path}: {key}: expected a count, got {shown(value)}")
    return value or default


def _parts(path: Path, count: int) -> list[Path]:
    found = _SPLIT_NAME.fullmatch(path.name)
    if found is None or int(found["count"]) != count or int(found["number"]) != 1:
        raise InputError(
            f"{path}: the first of {count} parts; expected a name like model-00001-of-{count:05}.gguf, "
            "by which the others are found"
        )
    return [path.with_name(f"{found['stem']}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1)]


def _check_part(part: Container, first: Container, number: int, count: int) -> None:
    got = part.metadata.get("split.no"), part.metadata.get("split.count")
    if got != (number, count):
        raise InputError(f"{part.path}: expected part {number} of {count} (split.no, split.count), got {got}")
    for key, value in part.metadata.items():
        if not key.startswith("split.") and not _same(value, first.metadata.get(key)):
            raise InputError(f"{part.path}: key {key!r} is not as in the first part, which holds the metadata")


def _same(value: Any, other: Any) -> bool:
    return type(value) is type(other) and bool(np.array_equal(value, other))


def _open_file(path: Path) -> Container:
    try:
        with path.open("rb") as file:
            # an empty file cannot be mapped; an empty map is as wrong as it
            whole = os.fstat(file.fileno()).st_size
            mapped = mmap.mmap(file.fileno(), whole, access=mmap.ACCESS_READ) if whole else mmap.mmap(-1, 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    return _Parser(path, mapped, whole).container()


@dataclass(frozen=True)
class _Entry:
    """A line of the table of tensors, before its data has been found."""

    name: str
    shape: tuple[int, ...]
    number: int
    offset: int


class _Parser:
    """Reads from the front of a file to the end of its table; every step asks if the file is that long."""

    def __init__(self, path: Path, mapped: mmap.mmap, size: int) -> None:
        self._path = path
        self._mapped = mapped
        self._data = np.frombuffer(mapped, np.uint8, size)
        self._at = 0

    def container(self) -> Container:
        tensor_count, key_count = self._header()
        self._check_count("keys", key_count, _MIN_KEY)
        metadata: dict[str, Any] = {}
        for _ in range(key_count):
            key = self._name("the name of a key")
            if key in metadata:
                self._fail(f"key {key!r} occurs twice")
            metadata[key] = self._value(key, self._u32(key), 0)
        self._check_count("tensors", tensor_count, _MIN_TENSOR)
        entries: dict[str, _Entry] = {}
        for _ in range(tensor_count):
            entry = self._entry()
            if entry.name in entries:
                self._fail(f"tensor {entry.name!r} occurs twice")
            entries[entry.name] = entry
        alignment = self._alignment(metadata)
        found = self._locate(list(entries.values()), alignment)
        return Container(self._path, metadata, {name: found[name] for name in entries})

    def _fail(self, what: str) -> NoReturn:
        raise InputError(f"{self._path}: {what}; the file is damaged or not what it says")

    def _take(self, count: int, what: str) -> npt.NDArray[np.uint8]:
        if count > len(self._data) - self._at:
            self._fail(f"{what}: expected {count} bytes, got {len(self._data) - self._at} before the end of the file")
        self._at += count
        return self._data[self._at - count : self._at]

    def _u32(self, what: str) -> int:
        return int.from_bytes(self._take(4, what).tobytes(), "little")

    def _u64(self, what: str) -> int:
        return int.from_bytes(self._take(8, what).tobytes(), "little")

    def _header(self) -> tuple[int, int]:
        magic = self._take(4, "the first four bytes").tobytes()
        if magic != MAGIC:
            raise InputError(f"{self._path}: not a GGUF file, which begins with {MAGIC!r}; it begins with {magic!r}")
        version = self._u32("the version")
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        if version not in _VERSIONS:
            way = "convert it on a little-endian machine" if swapped in _VERSIONS else "convert it with a newer tool"
            kind = "big-endian GGUF" if swapped in _VERSIONS else f"GGUF version {version}"
            raise InputError(f"{self._path}: {kind}; this release reads versions 2 and 3, little-endian: {way}")
        return self._u64("the number of tensors"), self._u64("the number of keys")

    def _check_count(self, what: str, count: int, smallest: int) -> None:
        rest = len(self._data) - self._at
        if count > rest // smallest:
            self._fail(f"{count} {what} cannot be in the {rest} bytes that are left")

    def _string(self, what: str) -> str:
        raw = self._take(self._u64(what), what)
        try:
            return raw.tobytes().decode("utf-8")
        except UnicodeDecodeError as error:
            self._fail(f"{what} is not UTF-8 ({error.reason})")

    def _name(self, what: str) -> str:
        name = self._string(what)
        if len(name) > _MAX_NAME:
            self._fail(f"{what}: expected at most {_MAX_NAME} letters, got {len(name)}")
        return name

    def _value(self, key: str, kind: int, depth: int) -> Any:
        if kind == _STRING:
            return self._string(key)
        if kind == _ARRAY:
            return self._array(key, depth + 1)
        return self._numbers(key, kind, 1)[0].item() if kind != _BOOL else bool(self._numbers(key, kind, 1)[0])

    def _array(self, key: str, depth: int) -> Any:
        if depth > _MAX_NESTING:
            self._fail(f"key {key!r}: arrays inside arrays, more than {_MAX_NESTING} deep")
        kind, count = self._u32(key), self._u64(key)
        if kind in (_STRING, _ARRAY):
            self._check_count(f"entries of {key!r}", count, 8 if kind == _STRING else 12)
            return [self._value(key, kind, depth) for _ in range(count)]
        return self._numbers(key, kind, count)

    def _numbers(self, key: str, kind: int, count: int) -> npt.NDArray[Any]:
        if kind not in _SCALARS:
            self._fail(f"key {key!r}: a value of the unknown type {kind}")
        dtype = _SCALARS[kind]
        values = self._take(count * dtype.itemsize, f"key {key!r}").view(dtype)
        if kind == _BOOL and count and values.max() > 1:
            self._fail(f"key {key!r}: expected 0 or 1 for a bool, got {values.max()}")
        return values.astype(bool) if kind == _BOOL else values

    def _entry(self) -> _Entry:
        name = self._name("the name of a tensor")
        count = self._u32(f"tensor {name!r}")
        if not 1 <= count <= _MAX_DIMENSIONS:
            self._fail(f"tensor {name!r}: expected 1 to {_MAX_DIMENSIONS} dimensions, got {count}")
        shape = tuple(self._u64(f"tensor {name!r}") for _ in range(count))[::-1]
        if 0 in shape:
            self._fail(f"tensor {name!r}: expected dimensions of at least 1, got {list(shape)}")
        return _Entry(name, shape, self._u32(f"tensor {name!r}"), self._u64(f"tensor {name!r}"))

    def _alignment(self, metadata: dict[str, Any]) -> int:
        value = metadata.get("general.alignment", _ALIGNMENT)
        if type(value) is not int or not 8 <= value <= _MAX_ALIGNMENT or value & (value - 1):
            self._fail(f"general.alignment: expected a power of two from 8 to {_MAX_ALIGNMENT}, got {shown(value)}")
        return value

    def _locate(self, entries: list[_Entry], alignment: int) -> dict[str, GgufTensor]:
        """Tensors with their data, which follow each other without gaps but padding; a part may hold keys alone."""
        if not entries:
            return {}
        front = -(-self._at // alignment) * alignment
        data = self._data[front:]
        ordered = sorted(entries, key=lambda entry: entry.offset)
        ends = [*(entry.offset for entry in ordered[1:]), len(data)]
        found = {}
        for index, (entry, end) in enumerate(zip(ordered, ends, strict=True)):
            if entry.offset % alignment or (index == 0 and entry.offset):
                what = "multiples" if index else "the beginning, in multiples"
                self._fail(f"tensor {entry.name!r}: expected data at {what} of {alignment} bytes, got {entry.offset}")
            kind, size = self._type(entry, end - entry.offset, alignment)
            own = data[entry.offset : entry.offset + size]
            found[entry.name] = GgufTensor(entry.name, entry.shape, kind, own, front + entry.offset, self._mapped)
        return found

    def _type(self, entry: _Entry, room: int, alignment: int) -> tuple[StoredType, int]:
        """The type of a tensor that has `room` bytes before the next one, which its size must account for."""
        forms = TYPES.get(entry.number)
        if forms is None:
            raise InputError(f"{self._path}: tensor {entry.name!r}: {unknown_type(entry.number)}")
        weights = math.prod(entry.shape)
        for form in forms:
            size = weights // form.weights * form.size
            if entry.shape[-1] % form.weights == 0 and 0 <= room - size < alignment:
                return form, size
        form = forms[0]
        if entry.shape[-1] % form.weights:
            self._fail(f"tensor {entry.name!r}: expected rows of whole {form.name} blocks, got {list(entry.shape)}")
        size = weights // form.weights * form.size
        self._fail(f"tensor {entry.name!r}: expected {size} bytes of {form.name}, got room for {max(room, 0)}")
