"""The table of targets: what zig, CMake and pip call each system."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

from dualbinary import InputError
from dualbinary.files.systems import SYSTEMS, System, named_systems

__all__ = ["Target", "targets"]

_TABLE = Path(__file__).with_name("targets.toml")


@dataclass(frozen=True)
class Target:
    """A row of targets.toml, which says what the fields mean, and its system."""

    of: System
    triple: str
    system: str
    processor: str
    platform: str

    @property
    def tag(self) -> str:
        """The tag of the wheel: the library speaks C, so that one serves every Python 3."""
        return f"py3-none-{self.platform}"


def targets(names: list[str] | None = None) -> list[Target]:
    """The targets of these systems, or all. Raises InputError for a name that the table lacks."""
    rows = tomllib.loads(_TABLE.read_text(encoding="utf-8"))
    wanted = named_systems(names) if names else SYSTEMS
    missing = [system.name for system in wanted if system.name not in rows]
    if missing:
        raise InputError(f"{_TABLE.name} has no row for {missing[0]}: expected one for each system")
    return [Target(system, **rows[system.name]) for system in wanted]
