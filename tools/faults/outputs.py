"""What outputs hold, so that two of them can be compared byte by byte, and what a fault may leave beside them."""

import hashlib
import json
from pathlib import Path
from typing import Any

__all__ = ["contents", "differences", "litter"]

RECORDS = ("calibration.json",)  # files in JSON with the seconds that something took
TIMES = ("seconds",)
TEMPORARY = (".new", ".partial", ".work", ".parts")


def contents(path: Path) -> dict[str, str]:
    """A digest of each file of a directory, or of the one file `path`; records without their times."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return {str(file.relative_to(path)): _digest(file) for file in files if file.is_file()}


def differences(found: dict[str, str], wanted: dict[str, str]) -> list[str]:
    """Names of files that are missing, too many or others."""
    return sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))


def litter(directory: Path) -> list[str]:
    """Names in a directory that only something temporary has."""
    return sorted(
        entry.name
        for entry in directory.iterdir()
        if entry.name.startswith((".dualbinary-", ".tmp")) or entry.name.endswith(TEMPORARY)
    )


def _digest(file: Path) -> str:
    content = file.read_bytes()
    if file.name in RECORDS:
        content = json.dumps(_without_times(json.loads(content)), sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(one) for key, one in value.items() if key not in TIMES}
    return [_without_times(one) for one in value] if isinstance(value, list) else value
