"""Damaged inputs of calibration: its configuration, its text, the state of a run that was stopped; and wheels."""

import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Iterator
from typing import Any

from tools.damage import bases
from tools.damage.case import Case

__all__ = ["cases"]

_RUN = ("quantize", "{dir}", "{out}/new", "--quiet")
_SHORT = (*_RUN, "--length", "16")  # no more than the model can write
_READ = (*_SHORT, "--planes", "2")  # no budget, which is too small for it, so that text is read
_WHEEL = "wheels/dualbinary-1-py3-none-manylinux_2_28_x86_64.whl"


def cases() -> Iterator[Case]:
    """All of them."""
    yield from _configurations()
    yield from _texts()
    yield from _states()
    yield from _wheels()


def _configurations() -> Iterator[Case]:
    contents: dict[str, bytes] = {
        "is cut off": b'{"version": ',
        "is a list": b"[]",
        "has an unknown key": b'{"surprise": 1}',
        "nests 1,000 deep": b'{"a": ' + b"[" * 1000 + b"]" * 1000 + b"}",
        "is of version 99": b'{"version": 99}',
        "has a stage that is none": b'{"stages": ["magic"]}',
        "has a seed of 2^63": json.dumps({"seed": 1 << 63}).encode(),
        "has a seed that is negative": b'{"seed": -1}',
        "has a rate that is no number": b'{"block": {"latent_rate": NaN}}',
        "has a rate of 10^400": b'{"block": {"latent_rate": 1e400}}',
        "has windows of 2 tokens": b'{"data": {"length": 2}}',
        "has 0 planes": b'{"format": {"planes": 0}}',
        "has half a letter": b'{"start": "\\ud800"}',
        "has a method that is none": b'{"init": {"method": "magic"}}',
    }
    for damage, content in contents.items():
        files = {**bases.llama(), "run.json": content}
        yield Case("configuration of a calibration", f"it {damage}", files, (*_RUN, "--config", "{dir}/run.json"))
    missing = (*_RUN, "--config", "{dir}/no.json")
    yield Case("configuration of a calibration", "it is not there", bases.llama(), missing)


def _texts() -> Iterator[Case]:
    line = b'{"text": "one"}\n'
    files: dict[str, tuple[str, bytes]] = {
        "a file of no known kind": ("a.doc", b"x"),
        "text that is not UTF-8": ("a.txt", b"\xff\xfe\xfd"),
        "nothing but blanks": ("a.txt", b"  \n"),
        "a line that is no JSON": ("a.jsonl", line + b"{\n"),
        "a line that is a list": ("a.jsonl", b"[]\n"),
        "a line without text": ("a.jsonl", b'{"words": "x"}\n'),
        "a line whose text is a number": ("a.jsonl", b'{"text": 7}\n'),
        "a line of half a letter": ("a.jsonl", b'{"text": "\\ud800"}\n'),
        "a line that nests 100,000 deep": ("a.jsonl", b"[" * 100_000 + b"\n"),
        "gzip that is none": ("a.txt.gz", b"hello"),
        "gzip that is cut off": ("a.txt.gz", gzip.compress(line * 100, mtime=0)[:-20]),
        "gzip that is damaged": ("a.txt.gz", gzip.compress(line * 100, mtime=0)[:12] + b"\xff" * 30),
        "xz that is none": ("a.txt.xz", b"hello"),
        "xz that is cut off": ("a.txt.xz", lzma.compress(line * 100)[:-8]),
        "a line that would be 100 MB": ("a.jsonl.gz", gzip.compress(b" " * 100_000_000, 1, mtime=0)),
        "bz2 that is none": ("a.md.bz2", b"hello"),
        "a table that is none": ("a.parquet", b"PAR1hello"),
        "a table that is empty": ("a.parquet", b""),
    }
    for damage, (name, content) in files.items():
        yield Case(
            "text",
            damage,
            {**bases.llama(), "tokenizer.json": bases.decoder()["tokenizer.json"], name: content},
            (*_READ, "--text", f"{{dir}}/{name}"),
        )
    yield Case("text", "a pattern that nothing matches", bases.llama(), (*_READ, "--text", "{dir}/*.txt"))
    yield Case("text", "a folder", {**bases.llama(), "a": None}, (*_READ, "--text", "{dir}/a"))


def _states() -> Iterator[Case]:
    generated: dict[str, bytes] = {
        "is no safetensors file": b"hello",
        "is empty": b"",
        "says a header of 2^63 bytes": b"\0" * 7 + b"\x80" + b"{}",
    }
    for damage, content in generated.items():
        files = {**bases.llama(), "sequences.safetensors": content}
        command = (*_READ, "--generated", "{dir}/sequences.safetensors")
        yield Case("generated sequences", f"the file {damage}", files, command)
    starts: dict[str, bytes] = {"is no checkpoint": bases.llama()["config.json"], "has a damaged config.json": b"{"}
    for damage, content in starts.items():
        files = {**bases.llama(), "start/config.json": content}
        yield Case("checkpoint to start from", f"it {damage}", files, (*_SHORT, "--start", "{dir}/start"))
    yield Case("checkpoint to start from", "it is not there", bases.llama(), (*_SHORT, "--start", "{dir}/start"))


def _wheels() -> Iterator[Case]:
    command = ("bundle", "{dir}", "--systems", "linux-x64", "--from", "{dir}/wheels")

    def wheel(name: str, content: bytes) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(zipfile.ZipInfo(name), content)
        return file.getvalue()

    library = "runtime_ext/libdualbinary.so"
    whole = wheel(library, b"hello")
    central = whole.rindex(b"PK\1\2")
    contents: dict[str, Any] = {
        "is empty": b"",
        "is no archive": b"hello",
        "is cut off": whole[:-10],
        "has no library": wheel("x", b""),
        "has a library that is none": whole,
        "says a library of 4 GB": whole[: central + 24] + b"\xfe\xff\xff\xff" + whole[central + 28 :],
        "is packed in an unknown way": whole[: central + 10] + b"\x63\x00" + whole[central + 12 :],
        "is encrypted": whole[: central + 8] + b"\x01\x00" + whole[central + 10 :],
    }
    for damage, content in contents.items():
        files = {"model.onnx": b"x", _WHEEL: content}
        yield Case("wheels of a bundle", f"the wheel {damage}", files, command)
