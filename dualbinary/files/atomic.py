"""Writing files and directories so that they are there whole or not at all, whenever the process ends."""

import errno
import glob
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dualbinary.errors import InputError

__all__ = [
    "ON_WINDOWS",
    "check_file",
    "is_abandoned",
    "move_into_place",
    "new_directory",
    "sync",
    "write_text",
    "writing",
]

ON_WINDOWS = os.name == "nt"
_NUMBER = re.compile(r"serializing: .*\(os error (\d+)\)")  # as safetensors says that it could not write
_OF_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_PARTIAL = ".partial"


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


@contextmanager
def writing(path: Path, *, remove: bool = False) -> Iterator[Path]:
    """Yield `path`, a file or directory to write, and name it in errors of a full or unwritable disk that name no file.

    Python names a file that cannot be opened, but not one that cannot be written; safetensors has an exception of its
    own. With `remove`, what an exception leaves of a file goes.
    """
    try:
        yield path
    except BaseException as error:
        if remove:
            path.unlink(missing_ok=True)
        number = _error_number(error)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def write_text(path: Path, text: str) -> None:
    """Write or replace the text file `path` in one step.

    Raises InputError where `path` is a directory or its directory does not exist.
    """
    check_file(path)
    with writing(path.with_name(path.name + ".new"), remove=True) as aside, writing(path):
        aside.write_text(text, encoding="utf-8")
        move_into_place(aside, path)


def check_file(path: Path) -> None:
    """Raise InputError where no file can be written at `path`, for a command to know before it works for long."""
    if path.is_dir():
        raise InputError(f"{path}: a directory; expected a file to write")
    if not path.parent.is_dir():
        raise InputError(f"{path}: its directory does not exist; make it, or choose another file")


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Yield an empty directory beside `path` that becomes `path` when the block ends without an exception.

    What a run that was killed left of it goes first. Raises InputError if `path` exists and is not an empty directory.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path}: exists and is not an empty directory; choose another or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.parent / f".{path.name}.{os.getpid()}{_PARTIAL}"
    for left in path.parent.glob(f".{glob.escape(path.name)}.*{_PARTIAL}"):
        if left == staging or is_abandoned(left.name.removesuffix(_PARTIAL).rpartition(".")[2]):
            shutil.rmtree(left, ignore_errors=True)
    staging.mkdir()
    try:
        with writing(path):
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


def is_abandoned(owner: str) -> bool:
    """Say that no process has the number `owner`, which the name of something temporary has, where that is known."""
    return owner.isdigit() and Path("/proc").exists() and not Path(f"/proc/{owner}").exists()


def _error_number(error: BaseException) -> int | None:
    """The number of an error that only writing has, and whose message names no file."""
    if isinstance(error, OSError):
        return None if error.filename or error.errno not in _OF_WRITING else error.errno
    found = _NUMBER.search(str(error)) if isinstance(error, Exception) else None
    return int(found[1]) if found else None
