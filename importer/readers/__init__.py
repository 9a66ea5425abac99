"""The readers, one for each format: how a source is recognised, what it can hold, where that is documented."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dualbinary import InputError
from dualbinary.checkpoint import quantized_by
from dualbinary.files.json_objects import read_json_object
from dualbinary.files.model_files import CONFIG_FILE
from importer.model import LowBitModel
from importer.readers.gguf import is_gguf, open_gguf

__all__ = ["READERS", "Reader", "open_model"]


@dataclass(frozen=True)
class Reader:
    """A format that can be read.

    Attributes:
        name: of the format, as its makers write it.
        recognises: takes the path and its config.json ({} for a file) and tells if this reader is meant; reads no more
            than the first bytes of a file.
        holds: what weights of it can be, for people.
        documented: where the format is specified.
        open: reads headers and returns the model. Raises InputError for whatever is damaged or cannot be exact.
    """

    name: str
    recognises: Callable[[Path, dict[str, Any]], bool]
    holds: str
    documented: str
    open: Callable[[Path, dict[str, Any]], LowBitModel]


READERS: tuple[Reader, ...] = (
    Reader(
        name="gguf",
        recognises=is_gguf,
        holds="Q1_0, Q2_0, TQ1_0, TQ2_0, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K; F32, F16, BF16",
        documented="https://github.com/ggml-org/ggml/blob/master/docs/gguf.md",
        open=open_gguf,
    ),
)
"""All of them, in the order in which they are asked."""


def open_model(source: Path) -> LowBitModel:
    """The low-bit model at `source`, a file or a directory. Raises InputError where no reader knows it."""
    if not source.exists():
        raise InputError(f"{source}: no such file or directory")
    config = read_json_object(source / CONFIG_FILE) if source.is_dir() else {}
    for reader in READERS:
        if reader.recognises(source, config):
            return reader.open(source, config)
    known = f"this release reads {', '.join(reader.name for reader in READERS)}"
    if not source.is_dir():
        raise InputError(f"{source}: not a file of a known format; {known}")
    method = quantized_by(source)
    if method is None:
        raise InputError(f"{source}: nothing says that another tool quantized it; python -m exporter takes it as it is")
    raise InputError(f"{source}: quantized with {method}; {known}; give one of these, or the full-precision model")
