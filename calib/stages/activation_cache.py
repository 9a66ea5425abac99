"""Cached activations: hidden states of all windows in mapped files, one generation for each block boundary.

    streams/<kind>-<block>.f32      float32 [windows, T, H]: what enters this block in the teacher or in the student

An unfinished file ends in .new; it takes its name once all windows are in it.
"""

import math
import shutil
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dualbinary import InputError
from dualbinary.files.atomic import move_into_place

__all__ = ["ActivationCache"]

GIGABYTE = 1e9
GENERATIONS = 2  # of each kind, what enters the current block and what leaves it


class ActivationCache:
    """The cached activations of a run, under a limit of disk space."""

    def __init__(
        self,
        directory: Path,
        shape: tuple[int, int, int],
        limit_gb: float,
        kinds: tuple[str, ...] = ("teacher", "student"),
    ) -> None:
        """`shape` is [windows, T, H]. Raises InputError where the limit or the disk is too small for it."""
        self.directory, self.shape, self.kinds = directory, shape, kinds
        directory.mkdir(exist_ok=True)
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
        return torch.from_numpy(np.memmap(self._unfinished(kind, block), np.float32, "w+", shape=self.shape))

    def keep(self, kind: str, block: int) -> None:
        """Give the file of a `create` its name: all windows are in it."""
        move_into_place(self._unfinished(kind, block), self.path(kind, block))

    def open(self, kind: str, block: int) -> Tensor:
        """The mapped tensor of an earlier `create`, writable in memory only."""
        return torch.from_numpy(np.memmap(self.path(kind, block), np.float32, "c", shape=self.shape))

    def complete(self, block: int) -> bool:
        """Say that the files that enter `block` are there."""
        files = [self.path(kind, block) for kind in self.kinds]
        return all(file.is_file() and file.stat().st_size == self._bytes for file in files)

    def drop(self, block: int) -> None:
        """Remove the files that enter `block`."""
        for kind in self.kinds:
            self.path(kind, block).unlink(missing_ok=True)

    def _unfinished(self, kind: str, block: int) -> Path:
        path = self.path(kind, block)
        return path.with_name(path.name + ".new")
