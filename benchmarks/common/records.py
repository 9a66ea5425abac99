"""A file of measurements that a killed run goes on with, and what must be known of the machine to read them.

One JSON object: `machine`, `settings`, and `records`, a list of objects that each have their `key`. It is rewritten as
a whole after every record, under another name and then renamed. Records keep raw times; tables, ratios and plots are
made from them, so a better table needs no new measurement.
"""

import hashlib
import json
import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import onnxruntime

from dualbinary import InputError
from dualbinary.files.json_objects import read_json_object
from runtime_ext.library import describe, library_path

__all__ = ["OtherLoad", "Records", "machine"]


class Records:
    """The records of one file; `path` None keeps them in memory. Raises InputError for a file of other settings."""

    def __init__(self, path: Path | None, settings: dict[str, Any]) -> None:
        self.path = path
        self.content: dict[str, Any] = {"machine": machine(), "settings": settings, "records": []}
        if path is not None and path.exists():
            stored = read_json_object(path)
            for part in ("settings", "machine"):
                _compare(path, stored.get(part, {}), self.content[part])
            self.content = stored
        self._keys = {record["key"] for record in self.records}

    @property
    def records(self) -> list[dict[str, Any]]:
        """In the order of their measurement."""
        return self.content["records"]

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def add(self, key: str, **values: Any) -> None:
        """Append a record and write the file."""
        self.records.append({"key": key, "time": datetime.now(UTC).isoformat(timespec="seconds"), **values})
        self._keys.add(key)
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        aside = self.path.with_name(self.path.name + ".new")
        aside.write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")
        aside.replace(self.path)


def _compare(path: Path, stored: dict[str, Any], now: dict[str, Any]) -> None:
    """What was measured under other conditions is not gone on with."""
    for name in sorted({*stored, *now}):
        if stored.get(name) != now.get(name):
            raise InputError(
                f"{path}: measured with {name} {stored.get(name)}, now it is {now.get(name)}; "
                "name another file with --out, or remove this one"
            )


def machine() -> dict[str, Any]:
    """The machine's kind, and the builds that are measured; equal in all runs that may share a file."""
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
    """How many cores other processes take, while it is entered; `cores` is None where the system does not tell."""

    cores: float | None = None

    def __enter__(self) -> "OtherLoad":
        self._begin = self._now()
        return self

    def __exit__(self, *_: object) -> None:
        now = self._now()
        if now is not None and self._begin is not None:
            busy, elapsed = (b - a for a, b in zip(self._begin, now, strict=True))
            self.cores = round(max(0.0, busy / elapsed), 2)

    @staticmethod
    def _now() -> tuple[float, float] | None:
        """CPU seconds of all processes without this one and its finished children; and the clock."""
        stat = Path("/proc/stat")
        if not stat.exists():
            return None
        user, nice, system, _idle, _wait, irq, soft, steal = map(int, stat.read_text().split()[1:9])
        own = os.times()
        mine = own.user + own.system + own.children_user + own.children_system
        busy = (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")
        return busy - mine, time.perf_counter()
