"""The readers, one for each format: how a source is recognised, what it can hold, where that is documented."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from importer.model import LowBitModel

__all__ = ["READERS", "Reader"]


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


READERS: tuple[Reader, ...] = ()
"""All of them, in the order in which they are asked."""
