"""A process that ends by SIGKILL right before its k-th change of files: every moment that a kill can tell apart.

Python announces what it does to files (PEP 578). What libraries in C++ and Rust write is within such a moment.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["killed_at"]

Main = Callable[[list[str]], int]
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def killed_at(main: Main, number: int, room: Path) -> Main:
    """`main`, which is killed before its change `number` (from 0) of something in `room`; only in a child process."""
    inside = str(room)

    def run(words: list[str]) -> int:
        left = number

        def hook(event: str, details: tuple[Any, ...]) -> None:
            nonlocal left
            if not _changes(event, details) or inside not in os.path.abspath(os.fsdecode(details[0])):
                return
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        return main(words)

    return run


def _changes(event: str, details: tuple[Any, ...]) -> bool:
    if not details or not isinstance(details[0], (str, bytes, os.PathLike)):
        return False
    if event == "open":
        return bool(details[2] & WRITES)
    return event in CHANGES
