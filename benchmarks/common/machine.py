"""Facts of the machine that measurements were made on, and the load that other processes put on it."""

import hashlib
import os
import platform
import time
from pathlib import Path
from typing import Any

import onnxruntime

from runtime_ext.library import describe, library_path

__all__ = ["OtherLoad", "last_level_cache", "machine"]


def machine() -> dict[str, Any]:
    """Facts of this machine and of the builds that are measured; equal in all runs that may share a file."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    kernels = describe()["kernels"]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "last_level_cache": last_level_cache(),
        "isas": sorted({kernel["isa"] for kernel in kernels if kernel["available"]}),
        "library": hashlib.sha256(library_path().read_bytes()).hexdigest()[:16],
        "onnxruntime": onnxruntime.__version__,
    }


def last_level_cache() -> int:
    """Bytes of the largest cache of a core; 32 MiB where the system does not tell."""
    sizes = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max((int(size[:-1]) << (20 if size[-1] == "M" else 10) for size in sizes), default=32 << 20)


class OtherLoad:
    """Cores that other processes take while it is entered; `cores` is None where the system does not tell."""

    cores: float | None = None

    def __init__(self, stat: Path = Path("/proc/stat")) -> None:
        self._stat = stat

    def __enter__(self) -> "OtherLoad":
        self._begin = self._now()
        return self

    def __exit__(self, *_: object) -> None:
        now = self._now()
        if now is not None and self._begin is not None:
            busy, elapsed = (b - a for a, b in zip(self._begin, now, strict=True))
            self.cores = round(max(0.0, busy / elapsed), 2)

    def _now(self) -> tuple[float, float] | None:
        """CPU seconds of all processes but this one and its finished children, and the clock."""
        if not self._stat.exists():
            return None
        user, nice, system, _idle, _wait, irq, soft, steal = map(int, self._stat.read_text().split()[1:9])
        own = os.times()
        mine = own.user + own.system + own.children_user + own.children_system
        busy = (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")
        return busy - mine, time.perf_counter()
