"""The data file of a model, written front to back: every tensor starts where a device can map it."""

from collections.abc import Iterable
from typing import BinaryIO

from dualbinary.contract.schema import OP

__all__ = ["ALIGNMENT", "INLINE_BYTES", "AlignedFile"]

ALIGNMENT = OP.layouts[0].alignment  # the same for all
INLINE_BYTES = 1024  # smaller tensors stay in the graph file: a page of the data file each would be waste


class AlignedFile:
    """Appends tensors to an open file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._end = 0

    def append(self, chunks: Iterable[bytes | memoryview]) -> tuple[int, int]:
        """Write the chunks of one tensor; return its offset and length."""
        offset = self._end + -self._end % ALIGNMENT
        self._file.write(bytes(offset - self._end))
        self._end = offset
        for chunk in chunks:
            self._file.write(chunk)
            self._end += len(chunk)
        return offset, self._end - offset
