"""The files of a model appear together or not at all.

Everything is written into a directory beside the output; at the end its files move into place, each in one step. Files
that they replace are kept until all have moved and come back if one does not.
"""

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dualbinary.errors import InputError

__all__ = ["check_output", "check_space", "scratch", "staged"]

_PREFIX = ".dualbinary-export-"
_SCRATCH = ".dualbinary-scratch-"
_REPLACED = "replaced"


def check_output(out: Path, names: list[str], *, force: bool, model_dir: Path | None = None) -> None:
    """Raise InputError, before any work, where `names` cannot be written beside `out` or would replace something.

    `model_dir` is a Hugging Face directory that must stay as it is.
    """
    directory = out.parent
    if out.suffix != ".onnx":
        raise InputError(f"{out}: the output's name must end in .onnx")
    if model_dir is not None and directory.resolve() == model_dir.resolve():
        raise InputError(
            f"{out}: lies in the model directory, whose config.json it would replace; choose another directory"
        )
    ancestor = directory
    while not ancestor.exists():
        ancestor = ancestor.parent
    if not ancestor.is_dir() or not os.access(ancestor, os.W_OK | os.X_OK):
        raise InputError(f"{ancestor}: not a directory that can be written")
    for name in names:
        if (directory / name).exists() and not (directory / name).is_file():
            raise InputError(
                f"{directory / name}: not a file, and in the way of one; move it or choose another directory"
            )
    existing = [name for name in names if (directory / name).exists()]
    if existing and not force:
        raise InputError(
            f"{directory}: already holds {', '.join(existing)}; choose another directory, or --force to replace"
        )


def check_space(directory: Path, needed: int) -> None:
    """Raise InputError where the file system of `directory` has less than `needed` bytes."""
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise InputError(f"{directory}: {needed / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free")


@contextmanager
def staged(directory: Path, stale: Iterable[str] = ()) -> Iterator[Path]:
    """Yield an empty directory whose files move into `directory` when the block ends without an exception.

    Files in its folders move into folders of the same names. Files named in `stale` belong to an earlier output and go,
    whether or not a new file takes their place.
    """
    with _own_directory(directory, _PREFIX) as stage:
        yield stage
        _move_all(stage, directory, stale)


@contextmanager
def scratch(directory: Path) -> Iterator[Path]:
    """Yield an empty directory in `directory` that goes when the block ends, or when a later run finds it abandoned."""
    with _own_directory(directory, _SCRATCH) as path:
        yield path


@contextmanager
def _own_directory(directory: Path, prefix: str) -> Iterator[Path]:
    made = _missing_parents(directory)
    directory.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(directory)
    own = directory / f"{prefix}{os.getpid()}"
    own.mkdir()
    try:
        yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()  # where nothing has come into it


def _move_all(stage: Path, directory: Path, stale: Iterable[str]) -> None:
    new = {str(path.relative_to(stage)) for path in stage.rglob("*") if path.is_file()}
    old = stage / _REPLACED
    old.mkdir()
    moved: list[str] = []
    made: list[Path] = []
    try:
        for name in sorted(new.union(stale)):
            if (directory / name).is_file():
                (old / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(directory / name, old / name)
            moved.append(name)
            if name in new:
                parent = (directory / name).parent
                made += _missing_parents(parent)
                parent.mkdir(parents=True, exist_ok=True)
                os.replace(stage / name, directory / name)
    except BaseException:
        for name in moved:
            with contextlib.suppress(OSError):
                os.unlink(directory / name)
            if (old / name).exists():
                os.replace(old / name, directory / name)
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise


def _missing_parents(directory: Path) -> list[Path]:
    missing = []
    while not directory.exists():
        missing.append(directory)
        directory = directory.parent
    return missing


def _remove_abandoned(directory: Path) -> None:
    """Remove what a run that was killed left behind; older files that it had moved aside come back first."""
    for path in (*directory.glob(f"{_PREFIX}*"), *directory.glob(f"{_SCRATCH}*")):
        owner = path.name.rpartition("-")[2]
        if not owner.isdigit() or Path(f"/proc/{owner}").exists() or not Path("/proc").exists():
            continue
        replaced = path / _REPLACED
        for old in [file for file in replaced.rglob("*") if file.is_file()]:
            target = directory / old.relative_to(replaced)
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(old, target)
        shutil.rmtree(path, ignore_errors=True)
