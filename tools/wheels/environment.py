"""The environment that wheels are built and checked in: .venv-wheels, with zig and what reads its libraries."""

import os
import subprocess
import sys
from pathlib import Path

from dualbinary import DualBinaryError
from tools.environments import Environment

__all__ = ["ROOT", "call", "environment", "zig"]

ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("auditwheel", "build", "cmake", "lief", "ninja", "numpy", "scikit-build-core", "ziglang")
_ENVIRONMENT = Environment(ROOT / ".venv-wheels", _PACKAGES, ROOT / "constraints-wheels.txt")


def environment() -> Path:
    """Return its folder of programs; install it where it is missing, or where the pins have changed."""
    return _ENVIRONMENT.python().parent


def zig() -> Path:
    """The program zig, which is a C++ compiler, an archiver and more by its first argument."""
    found = sorted(environment().parent.glob("lib/python3.*/site-packages/ziglang/zig"))
    if not found:
        raise DualBinaryError(f"{_ENVIRONMENT.folder.name} has no zig; remove it and try again")
    return found[0]


def call(command: list[str | Path], variables: dict[str, str] | None = None) -> None:
    """Run a program, whose output goes to standard error. Raises DualBinaryError where it fails."""
    settings = {**os.environ, **(variables or {})}
    result = subprocess.run(command, cwd=ROOT, env=settings, stdout=sys.stderr, check=False)
    if result.returncode:
        words = " ".join(map(str, command))
        raise DualBinaryError(f"`{words}` failed with exit code {result.returncode}")
