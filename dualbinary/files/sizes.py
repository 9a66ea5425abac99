"""Sizes of files as people write them."""

import re

from dualbinary.errors import InputError

__all__ = ["parse_size", "size_words"]

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}
PATTERN = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


def parse_size(text: str) -> int:
    """Bytes of "60MB", "1.5GB", "700 MiB", "123456". Raises InputError for anything else."""
    match = PATTERN.fullmatch(text)
    if match is None or match[2].upper() not in UNITS:
        raise InputError(f"expected a number of bytes, or one with kB, MB, GB, KiB, MiB or GiB, got {text!r}")
    return int(float(match[1]) * UNITS[match[2].upper()])


def size_words(count: int) -> str:
    """So many bytes in megabytes, to the kilobyte, rounded up: what is printed is enough where it is asked for."""
    return f"{-(-count // 1000) / 1000:.3f}MB"
