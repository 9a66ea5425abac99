"""The files of a model appear together or not at all.

Everything is written into a directory beside the output; at the end its files move into place, each in one step. Files
that they replace are kept until all have moved and come back if one does not:

    .dualbinary-export-PID/
        names.json      what moves, written before anything does
        replaced/       older files, until all have moved; while it is there, the next run takes the moves back

The graph moves away first and in last: there is none whose other files are not its own, whenever a process ends.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dualbinary.errors import InputError
from dualbinary.files.atomic import is_abandoned, sync, write_text, writing

__all__ = ["check_output", "check_space", "scratch", "staged"]

_OWN = ".dualbinary-"
_PREFIX = f"{_OWN}export-"
_REPLACED, _DONE = "replaced", "done"  # the folder of older files, before and after all have moved
_NAMES = "names.json"


def check_output(out: Path, names: list[str], *, force: bool, model_dir: Path | None = None) -> None:
    """Raise InputError, before any work, where `names` cannot be written beside `out` or would replace something.

    `model_dir` is a Hugging Face directory that must stay as it is. What a run that was killed left half moved is taken
    back first.
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
    if directory.is_dir():
        _remove_abandoned(directory)
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
        with writing(directory):
            yield stage
        _move_all(stage, directory, stale)


@contextmanager
def scratch(directory: Path, name: str = "scratch") -> Iterator[Path]:
    """Yield an empty directory in `directory` that goes when the block ends, or when a later run finds it abandoned.

    Two at a time in one directory have two names.
    """
    with _own_directory(directory, f"{_OWN}{name}-") as path:
        yield path


@contextmanager
def _own_directory(directory: Path, prefix: str) -> Iterator[Path]:
    made = _missing_parents(directory)
    directory.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(directory)
    own = directory / f"{prefix}{os.getpid()}"
    if own.exists():  # of another process that had this number, as the first of a container always has
        _take_back(own, directory)
    own.mkdir()
    try:
        yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()  # where nothing has come into it


def _move_all(stage: Path, directory: Path, stale: Iterable[str]) -> None:
    new = [str(path.relative_to(stage)) for path in stage.rglob("*") if path.is_file()]
    gone = [name for name in {*new, *stale} if (directory / name).is_file()]
    for path in (*stage.rglob("*"), stage):
        sync(path)  # a file that has its name must have its content, also after the power fails
    old = stage / _REPLACED
    write_text(stage / _NAMES, json.dumps({"new": new, "older": gone}))
    old.mkdir()
    try:
        for name in sorted(gone, key=_graphs_first):
            (old / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(directory / name, old / name)
        for name in sorted(new, key=_graphs_first, reverse=True):
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(stage / name, directory / name)
        for parent in {(directory / name).parent for name in new}:
            sync(parent)
        os.replace(old, stage / _DONE)  # from here on the new files are the output
    except BaseException:
        _take_back(stage, directory)
        raise


def _graphs_first(name: str) -> tuple[bool, str]:
    return not name.endswith(".onnx"), name


def _missing_parents(directory: Path) -> list[Path]:
    missing = []
    while not directory.exists():
        missing.append(directory)
        directory = directory.parent
    return missing


def _remove_abandoned(directory: Path) -> None:
    """Remove what a run that was killed left behind; older files that it had moved aside come back first."""
    for path in directory.glob(f"{_OWN}*-*"):
        if is_abandoned(path.name.rpartition("-")[2]):
            _take_back(path, directory)


def _take_back(stage: Path, directory: Path) -> None:
    """Undo the moves of `stage` unless all of them were done, and remove it. A process may end in here as well."""
    replaced = stage / _REPLACED
    if replaced.is_dir():
        new, older = _moves(stage, directory)
        for name in sorted(new, key=_graphs_first):
            # What has no older file to come back there, or still will: else it has come back already.
            if not (stage / name).exists() and (name not in older or (replaced / name).exists()):
                (directory / name).unlink(missing_ok=True)
                with contextlib.suppress(OSError):
                    (directory / name).parent.rmdir()  # a folder that was made for it
        for name in sorted(older, key=_graphs_first, reverse=True):
            if (replaced / name).exists():
                (directory / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(replaced / name, directory / name)
    shutil.rmtree(stage, ignore_errors=True)


def _moves(stage: Path, directory: Path) -> tuple[list[str], list[str]]:
    """Names of new files and of older ones that they replace, or that go."""
    try:
        names = json.loads((stage / _NAMES).read_text(encoding="utf-8"))
        return names["new"], names["older"]
    except FileNotFoundError:  # an earlier version of this package left it: what has no place taken comes back
        replaced = stage / _REPLACED
        files = [str(path.relative_to(replaced)) for path in replaced.rglob("*") if path.is_file()]
        return [], [name for name in files if not (directory / name).exists()]
