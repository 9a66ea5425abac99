"""Cached activations: hidden states of all windows in mapped files, one generation for each block boundary.

    streams/<kind>-<block>.f32      float32 [windows, T, H]: what enters this block in the teacher or in the student,
                                    and a digest of it, of the file's name and of the run

An unfinished file ends in .new; it takes its name once all windows are in it. Its room is taken before it is mapped: a
full disk would end the process at the write to a page that has none (SIGBUS).
"""

import hashlib
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dualbinary import InputError
from dualbinary.files.atomic import move_into_place, writing

__all__ = ["ActivationCache"]

GIGABYTE = 1e9
DIGEST_BYTES = 32
PIECE = 1 << 20  # bytes read at a time for a digest
GENERATIONS = 2  # of each kind, what enters the current block and what leaves it


class ActivationCache:
    """The cached activations of a run, under a limit of disk space."""

    def __init__(
        self,
        directory: Path,
        shape: tuple[int, int, int],
        limit_gb: float,
        kinds: tuple[str, ...] = ("teacher", "student"),
        key_of: Callable[[str], bytes] = str.encode,
    ) -> None:
        """`shape` is [windows, T, H]; `key_of` a name gives what the digest of such a file begins with.

        Raises InputError where the limit or the disk is too small.
        """
        self.directory, self.shape, self.kinds = directory, shape, kinds
        directory.mkdir(exist_ok=True)
        self._key_of = key_of
        self._bytes = 4 * math.prod(shape)
        need = GENERATIONS * len(kinds) * self._bytes
        free = shutil.disk_usage(directory).free + sum(file.stat().st_size for file in directory.iterdir())
        for what, limit in (("--cache-gb", limit_gb * GIGABYTE), (f"free space of {directory}", float(free))):
            if need > limit:
                raise InputError(
                    f"{what}: the hidden states of {shape[0]} windows of {shape[1]} tokens take "
                    f"{need / GIGABYTE:.1f} GB, more than {limit / GIGABYTE:.1f} GB; take fewer or shorter windows"
                )

    def path(self, kind: str, block: int) -> Path:
        """The file of `kind`, one of `kinds`, that enters block `block`."""
        return self.directory / f"{kind}-{block}.f32"

    def create(self, kind: str, block: int) -> Tensor:
        """A new mapped tensor, float32 [windows, T, H], to be filled and then kept."""
        path = self._unfinished(kind, block)
        with writing(path), open(path, "wb") as file:
            if hasattr(os, "posix_fallocate"):  # macOS has none
                os.posix_fallocate(file.fileno(), 0, self._bytes)
            file.truncate(self._bytes)
        return torch.from_numpy(np.memmap(path, np.float32, "r+", shape=self.shape))

    def keep(self, kind: str, block: int) -> None:
        """Give the file of a `create` its name: all windows are in it."""
        unfinished, path = self._unfinished(kind, block), self.path(kind, block)
        digest = self._digest(unfinished, path.name)
        with writing(path):
            with open(unfinished, "ab") as file:
                file.write(digest)
            move_into_place(unfinished, path)

    def open(self, kind: str, block: int) -> Tensor:
        """The mapped tensor of an earlier `create`, writable in memory only."""
        return torch.from_numpy(np.memmap(self.path(kind, block), np.float32, "c", shape=self.shape))

    def complete(self, block: int) -> bool:
        """Say that the files that enter `block` are there, as they were written."""
        return all(self._is_whole(self.path(kind, block)) for kind in self.kinds)

    def drop(self, block: int) -> None:
        """Remove the files that enter `block`."""
        for kind in self.kinds:
            self.path(kind, block).unlink(missing_ok=True)

    def _is_whole(self, path: Path) -> bool:
        if not path.is_file() or path.stat().st_size != self._bytes + DIGEST_BYTES:
            return False
        with path.open("rb") as file:
            file.seek(self._bytes)
            return file.read() == self._digest(path, path.name)

    def _digest(self, file: Path, name: str) -> bytes:
        digest = hashlib.blake2b(self._key_of(name), digest_size=DIGEST_BYTES)
        with file.open("rb") as opened:
            for begin in range(0, self._bytes, PIECE):
                digest.update(opened.read(min(PIECE, self._bytes - begin)))
        return digest.digest()

    def _unfinished(self, kind: str, block: int) -> Path:
        path = self.path(kind, block)
        return path.with_name(path.name + ".new")
