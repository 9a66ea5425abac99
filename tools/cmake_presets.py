"""Builds by the presets of CMakePresets.json, with this Python's CMake and Ninja."""

import os
import subprocess
import sys
from pathlib import Path

from dualbinary import DualBinaryError

__all__ = ["build_preset"]

ROOT = Path(__file__).resolve().parents[1]


def build_preset(
    preset: str, jobs: int, *, folder: Path = ROOT, settings: tuple[str, ...] = (), targets: tuple[str, ...] = ()
) -> None:
    """Configure and build `preset` of the sources in `folder`; `settings` are such as -DNAME=VALUE.

    Raises DualBinaryError, with the end of what CMake said, where that fails.
    """
    environment = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    build = ["--build", "--preset", preset, "--parallel", str(jobs)]
    for step in (
        ["--preset", preset, f"-DPython3_EXECUTABLE={sys.executable}", *settings],
        [*build, "--target", *targets] if targets else build,
    ):
        done = subprocess.run(
            ["cmake", *step], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise DualBinaryError(f"cmake {' '.join(step)} failed: {(done.stdout + done.stderr).strip()[-2000:]}")
