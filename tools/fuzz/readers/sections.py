"""Several files as one input: what a reader of directories is fed.

    --- config.json
    {"model_type": "llama"}
    --- model.safetensors
    ...

A name that is none, or that would leave the directory, is left out: where files lie is the fuzzer's choice, and what is
in them the input's.
"""

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

__all__ = ["files_of", "in_directory", "joined"]

_MARK = re.compile(rb"(?:\A|\n)--- ([\w.-]{1,64})\n")


def joined(files: Mapping[str, bytes]) -> bytes:
    """One input of these files."""
    return b"\n".join(b"--- " + name.encode() + b"\n" + content for name, content in files.items())


def files_of(data: bytes) -> dict[str, bytes]:
    """The files of an input; the last one of a name counts."""
    parts = _MARK.split(data)
    return {name.decode(): content for name, content in zip(parts[1::2], parts[2::2], strict=True) if name.strip(b".")}


@contextmanager
def in_directory(files: Mapping[str, bytes]) -> Iterator[Path]:
    """A directory with these files, for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="dualbinary-fuzz-") as name:
        for file, content in files.items():
            (Path(name) / file).write_bytes(content)
        yield Path(name)
