"""Wheels without a compiler: libraries that are nothing but what is read of one, for each system."""

import struct
import zipfile
from pathlib import Path

from dualbinary.contract.schema import digest
from dualbinary.files.systems import System, this_system

__all__ = ["here", "library_bytes", "make_wheel"]


def here() -> System:
    """The system that the tests run on, which is one that wheels are built for."""
    system = this_system()
    assert system is not None
    return system


def library_bytes(system: System, contract: str | None = None) -> bytes:
    """The beginning of a library of `system`, and the digest of a contract somewhere behind it."""
    arm = system.name.endswith("arm64")
    tail = (contract or digest()).encode() + bytes(16)
    if system.suffix == ".so":
        head = b"\x7fELF\x02\x01".ljust(18, b"\0") + struct.pack("<H", 183 if arm else 62)
        return head.ljust(64, b"\0") + (b"" if "musl" in system.name else b"libc.so.6\0") + tail
    if system.suffix == ".dll":
        machine = 0xAA64 if arm else 0x8664
        return b"MZ".ljust(60, b"\0") + struct.pack("<I", 64) + b"PE\0\0" + struct.pack("<H", machine) + tail
    return b"\xcf\xfa\xed\xfe" + struct.pack("<I", 0x0100000C if arm else 0x01000007) + tail


def make_wheel(folder: Path, system: System, content: bytes | None = None, tag: str | None = None) -> Path:
    """A wheel with such a library, under the name that a real one has."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"dualbinary-0.1.0-py3-none-{tag or system.pip}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"runtime_ext/{system.installed_file}", library_bytes(system) if content is None else content)
    return path
