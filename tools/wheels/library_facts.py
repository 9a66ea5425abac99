"""What a built library says of itself, read without running it: ELF, PE and Mach-O by LIEF."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lief

from dualbinary import InputError

__all__ = ["LibraryFacts", "library_facts"]

_MACHINES = {"X86_64": "x64", "AMD64": "x64", "AARCH64": "arm64", "ARM64": "arm64"}
_GLIBC = re.compile(r"GLIBC_(\d+(?:\.\d+)*)")


@dataclass(frozen=True)
class LibraryFacts:
    """Facts of a shared library.

    machine: the architecture, "x64" or "arm64". os: "linux", "windows" or "macos". exports: names that others see.
    imports: libraries that the system has to have. oldest: the oldest version of glibc or macOS that it asks for, empty
    where it names none. paths: folders that it has libraries looked for in (rpath). signed: a code signature is inside.
    """

    os: str
    machine: str
    exports: tuple[str, ...]
    imports: tuple[str, ...]
    oldest: str
    paths: tuple[str, ...]
    signed: bool


def library_facts(path: Path) -> LibraryFacts:
    """Read a shared library. Raises InputError for a file that is none."""
    binary: Any = lief.parse(str(path))
    readers = {lief.ELF.Binary: _elf, lief.PE.Binary: _pe, lief.MachO.Binary: _macho, lief.MachO.FatBinary: _fat}
    reader = readers.get(type(binary))
    if reader is None:
        raise InputError(f"{path}: expected a shared library of Linux, Windows or macOS")
    return reader(binary)


def _machine(value: Any) -> str:
    """The architecture of a header, by what LIEF calls it."""
    return _MACHINES.get(value.name, str(value.name))


def _elf(binary: Any) -> LibraryFacts:
    versions = [
        tuple(map(int, found[1].split(".")))
        for needed in binary.symbols_version_requirement
        for symbol in needed.get_auxiliary_symbols()
        if (found := _GLIBC.fullmatch(symbol.name))
    ]
    paths = [entry for entry in binary.dynamic_entries if entry.tag.name in ("RPATH", "RUNPATH")]
    return LibraryFacts(
        "linux",
        _machine(binary.header.machine_type),
        tuple(sorted({symbol.name for symbol in binary.exported_symbols})),
        tuple(binary.libraries),
        f"glibc {'.'.join(map(str, max(versions)))}" if versions else "",
        tuple(str(entry) for entry in paths),
        signed=False,
    )


def _pe(binary: Any) -> LibraryFacts:
    return LibraryFacts(
        "windows",
        _machine(binary.header.machine),
        tuple(sorted(entry.name for entry in binary.get_export().entries)),
        tuple(sorted({library.name for library in binary.imports})),
        "",
        (),
        signed=bool(binary.has_signatures),
    )


def _fat(binary: Any) -> LibraryFacts:
    if binary.size != 1:
        raise InputError(f"expected a library for one architecture, got {binary.size}")
    return _macho(binary.at(0))


def _macho(binary: Any) -> LibraryFacts:
    build = binary.build_version or binary.version_min
    return LibraryFacts(
        "macos",
        _machine(binary.header.cpu_type),
        tuple(sorted(symbol.name.removeprefix("_") for symbol in binary.exported_symbols)),
        tuple(library.name for library in binary.libraries if library.command.name != "ID_DYLIB"),
        f"macOS {'.'.join(map(str, (build.minos if binary.build_version else build.version)[:2]))}",
        tuple(path.path for path in binary.rpaths),
        signed=bool(binary.has_code_signature),
    )
