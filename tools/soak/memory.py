"""The memory of a process while it is under load, and whether it grows."""

import os
import statistics
import threading
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.common.served import resident_bytes

__all__ = ["Growth", "Memory", "growth"]

WARM = 0.25  # the share of samples before which pools fill
FEWEST = 8  # samples after it that say something
ALLOWED = 0.02  # of the memory, or
ALLOWED_BYTES = 8 << 20


@dataclass(frozen=True)
class Growth:
    """Bytes in memory: medians of the first and the last quarter of the samples, and the most there was."""

    early: int
    late: int
    peak: int

    @property
    def constant(self) -> bool:
        """Whether the late part is no more than a little above the early one."""
        return self.late - self.early <= max(ALLOWED * self.early, ALLOWED_BYTES)


def growth(samples: list[int]) -> Growth | None:
    """What samples in the order of time say, without those of the beginning; None where there are too few."""
    warm = samples[int(WARM * len(samples)) :]
    if len(warm) < FEWEST:
        return None
    quarter = max(1, len(warm) // 4)
    early, late = statistics.median(warm[:quarter]), statistics.median(warm[-quarter:])
    return Growth(int(early), int(late), max(samples))


class Memory:
    """Samples of this process, or of the one that `follow` names, taken by a thread."""

    def __init__(self, every: float, warm: Callable[[], bool]) -> None:
        """Take a sample `every` seconds once `begin` or `follow` is called and `warm` says that caches are filled."""
        self.samples: list[int] = []
        self._every, self._warm, self._pid = every, warm, os.getpid()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Take samples from now on."""
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def follow(self, pid: int) -> None:
        """Take samples of another process from now on."""
        self._pid = pid
        self.begin()

    def stop(self) -> None:
        """Take no more. Nothing happens a second time."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def _sample(self) -> None:
        while not self._stopped.wait(self._every):
            if self._warm():
                self.samples.append(resident_bytes(self._pid))
