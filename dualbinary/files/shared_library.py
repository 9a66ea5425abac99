"""What system a shared library is for, read off its bytes: nothing of it runs, and any system's is read anywhere."""

import struct

from dualbinary.files.systems import SYSTEMS, System

__all__ = ["missing_bytes", "system_of_library"]

_ELF_HEADER = 64
_ELF_MACHINES = {62: "x64", 183: "arm64"}
_PE_MACHINES = {0x8664: "x64", 0xAA64: "arm64"}
_MACHO_MACHINES = {0x01000007: "x64", 0x0100000C: "arm64"}


def system_of_library(content: bytes) -> System | None:
    """The system that a library of these bytes is for; None where it is no library, or one for another architecture.

    A Linux library is for glibc if it names glibc's file, and otherwise for musl, as long as enough bytes are there.
    """
    name = _name(content)
    return next((system for system in SYSTEMS if system.name == name), None)


def missing_bytes(content: bytes, size: int) -> int:
    """How many bytes a Linux library of `size` bytes lacks at its end, by what its beginning, `content`, says.

    To load one that was cut off is to read beyond its end, which kills the process. 0 for libraries of other systems,
    whose loaders look for themselves.
    """
    if content[:6] != b"\x7fELF\x02\x01" or len(content) < _ELF_HEADER:
        return 0
    (table,) = struct.unpack_from("<Q", content, 40)  # of the sections, which are at the end
    entry, entries = struct.unpack_from("<HH", content, 58)
    return max(0, table + entry * entries - size)


def _name(content: bytes) -> str:
    try:
        if content[:6] == b"\x7fELF\x02\x01":  # 64 bits, little-endian
            machine = _ELF_MACHINES.get(struct.unpack_from("<H", content, 18)[0])
            return f"linux-{'' if b'libc.so.6' in content else 'musl-'}{machine}"
        if content[:2] == b"MZ":
            (start,) = struct.unpack_from("<I", content, 0x3C)
            if content[start : start + 4] == b"PE\0\0":
                return f"windows-{_PE_MACHINES.get(struct.unpack_from('<H', content, start + 4)[0])}"
        if content[:4] == b"\xcf\xfa\xed\xfe":  # 64 bits, one architecture
            return f"macos-{_MACHO_MACHINES.get(struct.unpack_from('<I', content, 4)[0])}"
    except struct.error:  # cut off
        pass
    return ""
