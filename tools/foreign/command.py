"""Commands of other tools, and what a machine lacks when they are not there."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tools.hosts.task import NotHereError, Task

__all__ = ["arguments", "call", "library_directory", "tool"]


def tool(name: str, way_out: str) -> str:
    """The path of a program; NotHereError where it is not on the PATH."""
    path = shutil.which(name)
    if path is None:
        raise NotHereError(f"{name} was not found: {way_out}")
    return path


def call(*command: object, environment: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    """Run a command that must succeed and return what it wrote; NotHereError with its last words otherwise."""
    words = [str(word) for word in command]
    merged = {**os.environ, **(environment or {})}
    done = subprocess.run(words, env=merged, cwd=cwd, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        last = "\n".join((done.stderr or done.stdout).strip().splitlines()[-8:])
        raise NotHereError(f"`{words[0]} ...` ended with {done.returncode}: {last}")
    return done.stdout


def arguments(task: Task, library: Path) -> list[str]:
    """What the example programs of all languages take: OUT.onnx LIBRARY COUNT ID..."""
    return [str(task.model), str(library), str(task.count), *map(str, task.prompt_ids)]


def library_directory(work: Path) -> Path:
    """A directory with the library of the installed onnxruntime wheel under the names that programs ask for."""
    import onnxruntime

    found = sorted((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))
    if not found:
        raise NotHereError("this onnxruntime wheel has no separate shared library")
    directory = work / "onnxruntime"
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        link = directory / name
        if not link.exists():
            link.unlink(missing_ok=True)
            link.symlink_to(found[0])
    return directory
