"""The memory of a process while it is under load, and whether it grows."""

import os
import statistics
import threading
from dataclasses import dataclass

from benchmarks.common.served import resident_bytes

__all__ = ["Growth", "Memory", "growth"]

WARM = 0.25  # the share of samples before which pools and caches fill
ALLOWED = 0.02  # of the memory, or
ALLOWED_BYTES = 8 << 20


@dataclass(frozen=True)
class Growth:
    """Bytes in memory: medians of the first and the last quarter after the warm part, and the most there was."""

    early: int
    late: int
    peak: int

    @property
    def constant(self) -> bool:
        """Whether the late part is no more than a little above the early one."""
        return self.late - self.early <= max(ALLOWED * self.early, ALLOWED_BYTES)


def growth(samples: list[int]) -> Growth:
    """What samples in the order of time, at least one, say."""
    warm = samples[int(WARM * len(samples)) :]
    quarter = max(1, len(warm) // 4)
    early, late = statistics.median(warm[:quarter]), statistics.median(warm[-quarter:])
    return Growth(int(early), int(late), max(samples))


class Memory:
    """Samples of this process, or of the one that `follow` names, taken by a thread."""

    def __init__(self, every: float) -> None:
        """Take a sample `every` seconds once `begin` or `follow` is called."""
        self.samples: list[int] = []
        self._every, self._pid = every, os.getpid()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Take samples from now on."""
        self.samples.append(resident_bytes(self._pid))
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
            self.samples.append(resident_bytes(self._pid))
