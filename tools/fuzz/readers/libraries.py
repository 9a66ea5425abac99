"""The bytes of shared libraries, which say for which system they are, and wheels that hold one."""

import contextlib
import io
import struct
import zipfile
from collections.abc import Iterator

from dualbinary import InputError
from dualbinary.bundle.libraries import bundled_libraries
from dualbinary.files.shared_library import missing_bytes, system_of_library
from dualbinary.files.systems import SYSTEMS
from tools.fuzz.readers.sections import in_directory

NAME = "libraries"

_LINUX = next(system for system in SYSTEMS if system.name == "linux-x64")
_WHEEL = "dualbinary-1-py3-none-manylinux_2_28_x86_64.whl"


def seeds() -> Iterator[bytes]:
    """The beginnings of libraries of three systems, and a wheel."""
    elf = bytearray(128)
    elf[:6], elf[18:20] = b"\x7fELF\x02\x01", struct.pack("<H", 62)
    yield bytes(elf) + b"libc.so.6"
    yield b"MZ" + bytes(58) + struct.pack("<I", 64) + b"PE\0\0" + struct.pack("<H", 0x8664) + bytes(8)
    yield b"\xcf\xfa\xed\xfe" + struct.pack("<I", 0x0100000C) + bytes(8)
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        wheel = io.BytesIO()
        with zipfile.ZipFile(wheel, "w", method) as archive:
            archive.writestr(f"runtime_ext/{_LINUX.installed_file}", bytes(elf))
        yield wheel.getvalue()


def try_input(data: bytes) -> None:
    """Ask which system the library is for, and take one out of the wheel."""
    system_of_library(data)
    missing_bytes(data, len(data))
    with in_directory({_WHEEL.replace("-", "_"): b""}) as directory:
        (directory / _WHEEL).write_bytes(data)
        with contextlib.suppress(InputError):
            bundled_libraries([_LINUX], [directory])
