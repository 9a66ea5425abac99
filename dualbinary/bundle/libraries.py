"""Finding the libraries of other systems, in wheels or in another bundle, and checking that they fit this package."""

import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dualbinary.cli.version import package_version
from dualbinary.contract.schema import digest
from dualbinary.errors import InputError
from dualbinary.files.shared_library import system_of_library
from dualbinary.files.systems import System, this_system

__all__ = ["BundledLibrary", "bundled_libraries", "write_libraries"]

_FOLDER_IN_WHEEL = "runtime_ext"
_MAX_BYTES = 1 << 28  # of a library; the largest, with CUDA kernels, has a tenth
# What reading an archive that is damaged, encrypted or packed in an unknown way raises.
_DAMAGE = (
    zipfile.BadZipFile,
    KeyError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    UnicodeError,
    zlib.error,
    struct.error,
)
_DAMAGE += (OSError, lzma.LZMAError, ValueError)


@dataclass(frozen=True)
class BundledLibrary:
    """The library of a system, and where it was found."""

    system: System
    source: Path
    content: bytes


def bundled_libraries(
    systems: Sequence[System], places: Iterable[Path], installed: Path | None = None
) -> list[BundledLibrary]:
    """The libraries of `systems`, out of the wheels and bundles in `places`; for this system `installed` will do.

    Raises InputError, before anything is written, where one is missing, is for another system, or was built from
    another contract than this package has; the message says how to get it.
    """
    folders = list(places)
    found, missing = [], []
    for system in systems:
        library = _library(system, folders, installed)
        missing += [] if library else [system]
        found += [library] if library else []
    if missing:
        raise InputError(_how_to_get(missing, folders))
    for library in found:
        _check(library)
    return found


def write_libraries(libraries: Iterable[BundledLibrary], folder: Path) -> list[str]:
    """Write each library into `folder` under its system's name. Returns the names."""
    names = []
    for library in libraries:
        path = folder / library.system.file
        path.write_bytes(library.content)
        path.chmod(0o755)
        names.append(path.name)
    return names


def _library(system: System, places: list[Path], installed: Path | None) -> BundledLibrary | None:
    for place in places:
        # By the time of its making: what was built or fetched last is meant.
        for path in sorted(place.glob("dualbinary-*.whl"), key=lambda path: path.stat().st_mtime, reverse=True):
            if system.fits(path.stem.split("-")[-1]):
                return BundledLibrary(system, path, _of_wheel(path, system))
        if (path := place / system.file).is_file():
            return BundledLibrary(system, path, path.read_bytes())
    if installed is not None and system == this_system():
        return BundledLibrary(system, installed, installed.read_bytes())
    return None


def _of_wheel(wheel: Path, system: System) -> bytes:
    name = f"{_FOLDER_IN_WHEEL}/{system.installed_file}"
    try:
        with zipfile.ZipFile(wheel) as archive:
            if (size := archive.getinfo(name).file_size) > _MAX_BYTES:
                raise InputError(f"{wheel}: {name} has {size} bytes, expected {_MAX_BYTES} at most; fetch it again")
            return archive.read(name)  # which stops at the size that it was asked for
    except InputError:
        raise
    except _DAMAGE as error:
        raise InputError(f"{wheel}: expected a wheel with {name} ({error}); fetch or build it again") from error


def _check(library: BundledLibrary) -> None:
    system = system_of_library(library.content)
    if system != library.system:
        got = f"one for {system.name}" if system else "no library of a known system"
        raise InputError(f"{library.source}: expected a library for {library.system.name}, got {got}; fetch it again")
    if digest().encode() not in library.content:
        raise InputError(
            f"{library.source}: expected a library of contract {digest()}, got one of another; take the wheel of "
            f"version {package_version()}"
        )


def _how_to_get(missing: list[System], places: list[Path]) -> str:
    where = ", ".join(map(str, places)) or "the installed package"
    target = places[0] if places else Path("dist")
    first = missing[0]
    names, version = ", ".join(system.name for system in missing), package_version()
    download = (
        f"pip download dualbinary=={version} --index-url INDEX --no-deps --only-binary :all: --platform {first.pip} "
        f"--dest {target}"
    )
    return (
        f"{names}: no library in {where}; `make wheels` in a checkout builds the wheels of all systems into dist/, "
        f"`{download}` gets that of {first.name} where an index of yours has them"
    )
