"""The systems that the library is built for: their names, their wheels, and the library's file beside a model.

A name is OS-ARCHITECTURE in the words of .NET and Node.js, "x64" and "arm64", so that a host puts the file's name
together from what its own platform calls itself. Linux with musl in place of glibc is a system of its own.
"""

import os
import platform
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from dualbinary.errors import InputError

__all__ = ["LIBRARY", "SYSTEMS", "System", "named_systems", "this_system"]

LIBRARY = "libdualbinary"
"""The library's name without a suffix, on every system."""

_ALL = "all"
_ARCHITECTURES = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}
_FOREIGN_NAMES = {"win": "windows", "osx": "macos", "darwin": "macos", "mac": "macos"}


@dataclass(frozen=True)
class System:
    """A system; the platform in the names of its wheels begins with `wheel` and ends with `end`.

    suffix: of its libraries. pip: what pip's --platform calls it, where its wheels are asked for from another system.
    """

    name: str
    suffix: str
    wheel: str
    end: str
    pip: str

    @property
    def file(self) -> str:
        """Name of the library beside a model that is for several systems."""
        return f"{LIBRARY}-{self.name}{self.suffix}"

    @property
    def installed_file(self) -> str:
        """Name of the library inside a wheel of the system, and beside a model that is for this system alone."""
        return f"{LIBRARY}{self.suffix}"

    def fits(self, platform_tag: str) -> bool:
        """Say whether a wheel of this tag, such as manylinux_2_17_x86_64, is for the system."""
        return any(tag.startswith(self.wheel) and tag.endswith(self.end) for tag in platform_tag.split("."))


SYSTEMS = (
    System("linux-x64", ".so", "manylinux", "x86_64", "manylinux2014_x86_64"),
    System("linux-arm64", ".so", "manylinux", "aarch64", "manylinux2014_aarch64"),
    System("linux-musl-x64", ".so", "musllinux", "x86_64", "musllinux_1_2_x86_64"),
    System("linux-musl-arm64", ".so", "musllinux", "aarch64", "musllinux_1_2_aarch64"),
    System("windows-x64", ".dll", "win", "amd64", "win_amd64"),
    System("windows-arm64", ".dll", "win", "arm64", "win_arm64"),
    System("macos-arm64", ".dylib", "macosx", "arm64", "macosx_11_0_arm64"),
    System("macos-x64", ".dylib", "macosx", "x86_64", "macosx_10_15_x86_64"),
)
"""All of them; docs/howto/install.md says what each needs."""


def this_system() -> System | None:
    """The system that runs this Python, or None where it is none of them."""
    oses = {"win32": "windows", "darwin": "macos", "linux": "linux"}
    architecture = _ARCHITECTURES.get(platform.machine().lower())
    name = f"{oses.get(sys.platform)}-{'musl-' if _has_musl() else ''}{architecture}"
    return next((system for system in SYSTEMS if system.name == name), None)


def named_systems(names: Iterable[str]) -> tuple[System, ...]:
    """The systems of these names, once each, in the table's order; "all" is all, and win-x64 and osx-arm64 are known.

    Raises InputError for a name that is none.
    """
    known = {system.name for system in SYSTEMS}
    wanted = set()
    for name in names:
        head, dash, rest = name.strip().lower().partition("-")
        plain = _FOREIGN_NAMES.get(head, head) + dash + rest
        if plain == _ALL:
            return SYSTEMS
        if plain not in known:
            expected = ", ".join(system.name for system in SYSTEMS)
            raise InputError(f"{name}: expected a system, one of {expected}, or {_ALL}")
        wanted.add(plain)
    return tuple(system for system in SYSTEMS if system.name in wanted)


def _has_musl() -> bool:
    """Say whether this Linux has musl in place of glibc, which would tell its version."""
    if sys.platform != "linux":
        return False
    try:
        return not (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (OSError, ValueError):
        return True
