"""Writing files and directories so that they are there whole or not at all, whenever the process ends."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dualbinary.errors import InputError

__all__ = ["ON_WINDOWS", "check_file", "move_into_place", "new_directory", "sync", "write_text"]

ON_WINDOWS = os.name == "nt"


def sync(path: Path) -> None:
    """Ask the system to bring a file or directory to disk before the next step.

    Windows opens no directories, and flushes what may be written to alone.
    """
    if ON_WINDOWS and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if ON_WINDOWS else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move_into_place(aside: Path, target: Path) -> None:
    """Rename a finished file to `target`, on the disk as well, its content first."""
    sync(aside)
    aside.replace(target)
    sync(target.parent)


def write_text(path: Path, text: str) -> None:
    """Write or replace the text file `path` in one step.

    Raises InputError where `path` is a directory or its directory does not exist.
    """
    check_file(path)
    aside = path.with_name(path.name + ".new")
    try:
        aside.write_text(text, encoding="utf-8")
        move_into_place(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def check_file(path: Path) -> None:
    """Raise InputError where no file can be written at `path`, for a command to know before it works for long."""
    if path.is_dir():
        raise InputError(f"{path}: a directory; expected a file to write")
    if not path.parent.is_dir():
        raise InputError(f"{path}: its directory does not exist; make it, or choose another file")


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Yield an empty directory beside `path` that becomes `path` when the block ends without an exception.

    Raises InputError if `path` exists and is not an empty directory.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path}: exists and is not an empty directory; choose another or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.parent / f".{path.name}.{os.getpid()}.partial"
    staging.mkdir()
    try:
        yield staging
        for part in (*staging.iterdir(), staging):
            sync(part)
        if path.exists():
            path.rmdir()
        staging.rename(path)
        sync(path.parent)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
