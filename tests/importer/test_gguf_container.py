"""Damaged and lying GGUF files: one clear error each, in little memory, whatever their numbers say."""

import mmap
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualbinary import InputError
from importer.readers.gguf.container import open_container

MEMORY = 4 << 20  # bytes; each of these files is of some hundred
U8, I8, U32, F32, BOOL, STRING, ARRAY, U64 = 0, 1, 4, 6, 7, 8, 9, 10


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def key(name: str | bytes, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def u32(name: str, value: int) -> bytes:
    return key(name, U32, struct.pack("<I", value))


def array(kind: int, count: int, values: bytes) -> bytes:
    return struct.pack("<IQ", kind, count) + values


def tensor(name: str | bytes, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    dimensions = struct.pack(f"<{len(shape)}Q", *reversed(shape))
    return text(name) + struct.pack("<I", len(shape)) + dimensions + struct.pack("<IQ", kind, offset)


NAME = key("general.architecture", STRING, text("llama"))
KEYS = (NAME, u32("llama.block_count", 1))
ROW = 34  # bytes of 32 weights of Q8_0
TABLE = (tensor("a", (2, 32), 8, 0), tensor("b", (4,), 0, 96))  # two blocks, padded to 96, and four floats
DATA = bytes(range(2 * ROW)).ljust(96, b"\0") + np.arange(4, dtype="<f4").tobytes()


def gguf_file(
    keys: tuple[bytes, ...] = KEYS,
    table: tuple[bytes, ...] = TABLE,
    data: bytes = DATA,
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    counts: tuple[int, int] | None = None,
    alignment: int = 32,
) -> bytes:
    tensors, pairs = counts or (len(table), len(keys))
    front = magic + struct.pack("<IQQ", version, tensors, pairs) + b"".join(keys) + b"".join(table)
    return front.ljust(-(-len(front) // alignment) * alignment, b"\0") + data


HUGE = 1 << 60
DAMAGED = {
    "empty": (b"", "first four bytes: expected 4 bytes, got 0"),
    "another file": (b"PK\3\4" + bytes(60), "not a GGUF file"),
    "magic alone": (b"GGUF", "the version: expected 4 bytes"),
    "version 1": (gguf_file(version=1), "GGUF version 1"),
    "version 4": (gguf_file(version=4), "GGUF version 4"),
    "big endian": (b"GGUF" + struct.pack(">IQQ", 3, 2, 1), "big-endian GGUF"),
    "header cut": (gguf_file()[:20], "number of keys: expected 8 bytes"),
    "keys without end": (gguf_file(counts=(2, HUGE)), "keys cannot be in the"),
    "a key too many": (gguf_file(counts=(2, 3)), ""),
    "tensors without end": (gguf_file(counts=(HUGE, 2)), "tensors cannot be in the"),
    "a tensor too many": (gguf_file(counts=(3, 2)), ""),
    "a tensor too few": (gguf_file(counts=(1, 2)), "expected 68 bytes of Q8_0, got room for"),
    "table cut": (gguf_file()[:150], "2 tensors cannot be in the 48 bytes"),
    "a key twice": (gguf_file((NAME, NAME)), "'general.architecture' occurs twice"),
    "a key not UTF-8": (gguf_file((key(b"\xff\xfe", U32, bytes(4)),)), "is not UTF-8"),
    "a text not UTF-8": (gguf_file((key("general.architecture", STRING, text(b"\xc3\x28")),)), "is not UTF-8"),
    "a text without end": (gguf_file((key("k", STRING, struct.pack("<Q", HUGE)),)), f"expected {HUGE} bytes"),
    "an unknown value": (gguf_file((key("k", 13, bytes(8)),)), "unknown type 13"),
    "a bool of 2": (gguf_file((key("k", BOOL, b"\2"),)), "expected 0 or 1 for a bool, got 2"),
    "an array without end": (gguf_file((key("k", ARRAY, array(U64, HUGE, b"")),)), f"expected {8 * HUGE} bytes"),
    "texts without end": (gguf_file((key("k", ARRAY, array(STRING, HUGE, b"")),)), "cannot be in the"),
    "an array of unknown": (gguf_file((key("k", ARRAY, array(77, 1, bytes(8))),)), "unknown type 77"),
    "deep arrays": (gguf_file((key("k", ARRAY, array(ARRAY, 1, b"") * 500),)), "arrays inside arrays"),
    "wide arrays": (gguf_file((key("k", ARRAY, array(ARRAY, HUGE, b"")),)), "cannot be in the"),
    "alignment 0": (gguf_file((NAME, u32("general.alignment", 0))), "expected a power of two"),
    "alignment 24": (gguf_file((NAME, u32("general.alignment", 24))), "expected a power of two"),
    "alignment 2^31": (gguf_file((NAME, u32("general.alignment", 1 << 31))), "expected a power of two"),
    "alignment of text": (gguf_file((NAME, key("general.alignment", STRING, text("32")))), "expected a power of two"),
    "a tensor twice": (gguf_file(table=(TABLE[0], TABLE[0])), "'a' occurs twice"),
    "a name not UTF-8": (gguf_file(table=(tensor(b"\x80", (4,), 0, 0),)), "is not UTF-8"),
    "a name of a page": (gguf_file(table=(tensor("a" * 300, (4,), 0, 0),)), "expected at most 256 letters"),
    "no dimension": (gguf_file(table=(tensor("a", (), 0, 0),)), "expected 1 to 4 dimensions, got 0"),
    "five dimensions": (gguf_file(table=(tensor("a", (1,) * 5, 0, 0),)), "expected 1 to 4 dimensions, got 5"),
    "dimensions without end": (
        gguf_file(table=(text("a") + struct.pack("<I", 0xFFFFFFFF) + bytes(40),)),
        "expected 1 to 4 dimensions",
    ),
    "a dimension of 0": (gguf_file(table=(tensor("a", (0, 32), 8, 0), TABLE[1])), "dimensions of at least 1"),
    "a huge dimension": (gguf_file(table=(tensor("a", (HUGE, 32), 8, 0), TABLE[1])), "of Q8_0, got room for 96"),
    "a product beyond 64 bits": (gguf_file(table=(tensor("a", (HUGE,) * 4, 0, 0), TABLE[1])), "got room for 96"),
    "rows of part of a block": (gguf_file(table=(tensor("a", (2, 33), 8, 0), TABLE[1])), "rows of whole Q8_0 blocks"),
    "an unknown type": (gguf_file(table=(tensor("a", (2, 32), 99, 0), TABLE[1])), "type 99 is not known"),
    "a removed type": (gguf_file(table=(tensor("a", (2, 32), 4, 0), TABLE[1])), "type 4 is not known"),
    "a type of a fork": (gguf_file(table=(tensor("a", (2, 32), 142, 0), TABLE[1])), "rows of whole PQ2_0 blocks"),
    "a lying type, larger": (gguf_file(table=(tensor("a", (2, 32), 0, 0), TABLE[1])), "expected 256 bytes of F32"),
    "a lying type, smaller": (gguf_file(table=(tensor("a", (2, 32), 2, 0), TABLE[1])), "expected 36 bytes of Q4_0"),
    "data not at the beginning": (gguf_file(table=(tensor("a", (2, 32), 8, 32), TABLE[1])), "data at the beginning"),
    "data not aligned": (gguf_file(table=(TABLE[0], tensor("b", (4,), 0, 97))), "data at multiples of 32"),
    "data of two in one place": (gguf_file(table=(TABLE[0], tensor("b", (4,), 0, 0))), "got room for 0"),
    "data that overlap": (gguf_file(table=(TABLE[0], tensor("b", (4,), 0, 64))), "of Q8_0, got room for 64"),
    "data with a gap": (gguf_file(table=(TABLE[0], tensor("b", (4,), 0, 160))), "of Q8_0, got room for 160"),
    "data beyond the end": (gguf_file(table=(TABLE[0], tensor("b", (4,), 0, HUGE))), f"got room for {HUGE}"),
    "data cut": (gguf_file()[:-1], "expected 16 bytes of F32, got room for 15"),
    "data missing": (gguf_file(data=b""), "expected 16 bytes of F32, got room for 0"),
    "more behind the data": (gguf_file(data=DATA + bytes(64)), "expected 16 bytes of F32, got room for 80"),
}


def test_the_undamaged_file_is_read(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_file())
    container = open_container(path)
    assert container.metadata == {"general.architecture": "llama", "llama.block_count": 1}
    assert [(found.name, found.shape, found.type.name) for found in container.tensors.values()] == [
        ("a", (2, 32), "Q8_0"),
        ("b", (4,), "F32"),
    ]
    assert container.tensors["a"].data.tobytes() == bytes(range(2 * ROW))
    assert container.tensors["b"].data.view("<f4").tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_one_error(name, tmp_path):
    content, message = DAMAGED[name]
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as caught:
            open_container(path)
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@given(at=st.integers(0, len(gguf_file()) - 1), value=st.integers(0, 255), end=st.integers(0, len(gguf_file())))
def test_a_changed_or_cut_file_is_read_or_refused(at, value, end, tmp_path_factory):
    content = bytearray(gguf_file())
    content[at] = value
    path = tmp_path_factory.mktemp("changed") / "model.gguf"
    path.write_bytes(content if end % 2 else content[:end])
    try:
        container = open_container(path)
    except InputError:
        return
    for found in container.tensors.values():
        assert found.data.nbytes == np.prod(found.shape) // found.type.weights * found.type.size


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="pages cannot be let go here")
def test_pages_that_were_read_can_be_let_go(tmp_path):
    def resident() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssFile:"))

    rows = 1 << 19
    values = np.arange(8 * rows, dtype="<f4")  # 16 MiB
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_file(table=(tensor("a", (rows, 8), 0, 0),), data=values.tobytes()))
    found = open_container(path).tensors["a"]
    before = resident()
    assert np.array_equal(found.data.view("<f4"), values)
    assert resident() > before + values.nbytes * 3 // 4
    found.release()
    assert resident() < before + values.nbytes // 4
    assert np.array_equal(found.data.view("<f4"), values)


def test_values_of_all_types_are_read(tmp_path):
    keys = (
        key("u8", U8, b"\xff"),
        key("i8", I8, b"\xff"),
        key("u64", U64, b"\xff" * 8),
        key("f32", F32, struct.pack("<f", 0.5)),
        key("bool", BOOL, b"\1"),
        key("text", STRING, text("ä")),
        key("numbers", ARRAY, array(U32, 2, struct.pack("<II", 3, 4))),
        key("flags", ARRAY, array(BOOL, 2, b"\0\1")),
        key("texts", ARRAY, array(STRING, 2, text("a") + text(""))),
        key("nested", ARRAY, array(ARRAY, 1, array(U8, 2, b"\1\2"))),
        u32("general.alignment", 64),
    )
    path = tmp_path / "model.gguf"
    table = (tensor("a", (2, 32), 8, 0), tensor("b", (4,), 0, 128))
    path.write_bytes(gguf_file(keys, table, DATA[:96] + bytes(32) + DATA[96:], alignment=64, version=2))
    values = {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in open_container(path).metadata.items()
    }
    nested = values.pop("nested")
    assert [part.tolist() for part in nested] == [[1, 2]]
    assert values == {
        "u8": 255,
        "i8": -1,
        "u64": 2**64 - 1,
        "f32": 0.5,
        "bool": True,
        "text": "ä",
        "numbers": [3, 4],
        "flags": [False, True],
        "texts": ["a", ""],
        "general.alignment": 64,
    }


def test_forms_that_share_a_number_are_told_apart_by_their_size(tmp_path):
    def kind(number: int, size: int) -> str:
        path = tmp_path / f"{number}-{size}.gguf"
        path.write_bytes(gguf_file(table=(tensor("a", (4, 512), number, 0),), data=bytes(size)))
        return open_container(path).tensors["a"].type.name

    assert kind(41, 4 * 512 // 128 * 18) == "Q1_0"
    assert kind(41, 4 * 130) == "Q1_0 of 512"
    assert kind(42, 4 * 512 // 64 * 18) == "Q2_0"
    assert kind(42, 4 * 512 // 128 * 34) == "Q2_0 of 128"


def u16(name: str, value: int) -> bytes:
    return key(name, 2, struct.pack("<H", value))


def parts(directory: Path, *, second: tuple[bytes, ...] | None = None, total: int = 2) -> Path:
    """A file in two parts, a tensor in each."""
    last = (u16("split.no", 1), u16("split.count", 2)) if second is None else second
    first = (*KEYS, u16("split.no", 0), u16("split.count", 2), key("split.tensors.count", 5, struct.pack("<i", total)))
    (directory / "model-00001-of-00002.gguf").write_bytes(gguf_file(first, TABLE[:1], DATA[:96]))
    table = (tensor("b", (4,), 0, 0),)
    (directory / "model-00002-of-00002.gguf").write_bytes(gguf_file(last, table, DATA[96:]))
    return directory / "model-00001-of-00002.gguf"


def test_a_split_file_is_one_container(tmp_path):
    container = open_container(parts(tmp_path))
    assert list(container.tensors) == ["a", "b"]
    assert container.metadata["general.architecture"] == "llama"
    assert container.tensors["b"].data.view("<f4").tolist() == [0, 1, 2, 3]


def test_the_first_part_may_hold_keys_alone(tmp_path):
    first = (*KEYS, u16("split.no", 0), u16("split.count", 2), u32("split.tensors.count", 2))
    (tmp_path / "model-00001-of-00002.gguf").write_bytes(gguf_file(first, (), b""))
    second = (u16("split.no", 1), u16("split.count", 2))
    (tmp_path / "model-00002-of-00002.gguf").write_bytes(gguf_file(second))
    container = open_container(tmp_path / "model-00001-of-00002.gguf")
    assert container.metadata["general.architecture"] == "llama"
    assert list(container.tensors) == ["a", "b"]
    assert container.tensors["b"].data.view("<f4").tolist() == [0, 1, 2, 3]


def test_split_files_that_do_not_fit_are_refused(tmp_path):
    def refused(path: Path, message: str) -> None:
        with pytest.raises(InputError, match=message):
            open_container(path)

    refused(parts(tmp_path, total=3), "expected 3 tensors in 2 parts, got 2")
    refused(parts(tmp_path, second=(u16("split.no", 1), u16("split.count", 3))), "expected part 1 of 2")
    refused(parts(tmp_path, second=(u16("split.no", 0), u16("split.count", 2))), "expected part 1 of 2")
    other = key("general.architecture", STRING, text("gpt2"))
    refused(parts(tmp_path, second=(other, u16("split.no", 1), u16("split.count", 2))), "not as in the first part")
    first = parts(tmp_path)
    refused(tmp_path / "model-00002-of-00002.gguf", "give its first part")
    first.rename(tmp_path / "model.gguf")
    refused(tmp_path / "model.gguf", "the first of 2 parts; expected a name like")
    (tmp_path / "model.gguf").rename(first)
    (tmp_path / "model-00002-of-00002.gguf").write_bytes(first.read_bytes())
    refused(first, "expected part 1 of 2")
    (tmp_path / "model-00002-of-00002.gguf").unlink()
    refused(first, "00002-of-00002.gguf: cannot be read")
