"""A plain read of memory by threads: the limit of every product that must read its weight.

A reduction in NumPy is no such measure: it has one thread, 4 KiB pages, and no prefetch. `memory_read.c` is compiled
for this CPU on first use and reads one large buffer on huge pages with as many threads as asked for.
"""

import ctypes
import hashlib
import mmap
import os
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.common import REPOSITORY
from dualbinary import DualBinaryError

__all__ = ["AHEAD", "MemoryRead"]

AHEAD = (0, 4096, 8192)
"""Prefetch distances in bytes. None wins everywhere, so all are timed, and the best is what the memory delivers."""

_HUGE_PAGE = 2 << 20
_CHUNK = 1 << 20
_SOURCE = Path(__file__).with_suffix(".c")
_BUILD = REPOSITORY / "build" / "benchmarks"


class MemoryRead:
    """A buffer of at least `nbytes` and threads that read it."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = -(-nbytes // _HUGE_PAGE) * _HUGE_PAGE
        self._map = mmap.mmap(-1, self.nbytes + _HUGE_PAGE)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            self._map.madvise(mmap.MADV_HUGEPAGE)
        memory = np.frombuffer(self._map, np.uint8)
        begin = -memory.ctypes.data % _HUGE_PAGE
        memory[begin : begin + self.nbytes] = 1  # untouched pages would all be one page of zeros
        self._base = memory.ctypes.data + begin
        self._pool = ThreadPoolExecutor()
        self._read = _library().dualbinary_read
        self._read.argtypes = [ctypes.c_void_p, *[ctypes.c_size_t] * 3, ctypes.POINTER(ctypes.c_size_t)]
        self._read.restype = ctypes.c_uint64

    def reader(self, threads: int, ahead: int) -> Callable[[], None]:
        """Return a function that reads the whole buffer once. ctypes releases the interpreter's lock meanwhile."""

        def read() -> None:
            following = ctypes.c_size_t(0)
            arguments = (self._base, self.nbytes, _CHUNK, ahead, ctypes.byref(following))
            others = [self._pool.submit(self._read, *arguments) for _ in range(threads - 1)]
            found = [self._read(*arguments), *(other.result() for other in others)]
            # The value proves that the read was not optimized away. A thread that came too late has read nothing.
            if set(found) - {0} != {0x0101010101010101}:
                raise DualBinaryError("plain read of memory: expected what was written, got something else")

        return read


def _library() -> ctypes.CDLL:
    """Load the compiled source; there is one file for each source, compiler command and CPU."""
    command = [os.environ.get("CC", "cc"), "-O3", "-march=native", "-shared", "-fPIC"]
    facts = _SOURCE.read_bytes() + " ".join(command).encode() + _cpu_flags().encode()
    target = _BUILD / f"memory_read-{hashlib.sha256(facts).hexdigest()[:16]}.so"
    if not target.exists():
        _BUILD.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=_BUILD) as scratch:
            made = Path(scratch) / target.name
            done = subprocess.run(
                [*command, str(_SOURCE), "-o", str(made)], check=False, capture_output=True, text=True
            )
            if done.returncode:
                raise DualBinaryError(f"{_SOURCE.name} does not compile: {done.stderr.strip()}")
            made.replace(target)
    return ctypes.CDLL(str(target))


def _cpu_flags() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
