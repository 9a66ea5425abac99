"""Programs and libraries that tests have CMake build, below build/, where the next run of the tests finds them."""

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

__all__ = ["BUILDS", "build"]

BUILDS = Path(__file__).parents[2] / "build"


def build(source: Path, folder: Path, target: str, *options: str) -> None:
    """Configure and build, or bring up to date. Workers that test at the same time build once: the others wait."""
    folder.mkdir(parents=True, exist_ok=True)
    python = f"-DPython3_EXECUTABLE={sys.executable}"
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        configure = ["cmake", "-S", source, "-B", folder, "-G", "Ninja", python, *options]
        subprocess.run(configure, check=True, capture_output=True)
        command = ["cmake", "--build", folder, "--target", target, "--parallel", "2"]
        built = subprocess.run(command, check=False, capture_output=True, text=True)
    if built.returncode:
        pytest.fail(f"{target} of {source} does not build:\n{built.stdout[-4000:]}")
