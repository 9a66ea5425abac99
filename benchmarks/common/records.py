"""A file of measurements, from which a run that was stopped continues.

It is one JSON object: `machine`, `settings`, and `records`, a list of objects that each have a `key`. It is rewritten
as a whole after every record. Records keep raw times; tables, ratios and plots are
made from them, so a better table needs no new measurement.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.common.machine import machine
from dualbinary import InputError
from dualbinary.files.atomic import write_text
from dualbinary.files.json_objects import read_json_object

__all__ = ["Records"]


class Records:
    """Records of one file; `path` None keeps them in memory. Raises InputError for a file of other settings."""

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
        """Records in the order of their measurement."""
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
        write_text(self.path, json.dumps(self.content, indent=1) + "\n")


def _compare(path: Path, stored: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise InputError where the stored conditions are not those of now."""
    for name in sorted({*stored, *now}):
        if stored.get(name) != now.get(name):
            raise InputError(
                f"{path}: measured with {name} {stored.get(name)}, now it is {now.get(name)}; "
                "name another file with --out, or remove this one"
            )
