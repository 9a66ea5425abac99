"""A wheel of a target, and the source distribution: scikit-build-core with zig as the compiler.

The same sources give the same bytes, on any day and in any folder: the files in an archive have the date of the last
commit, and nothing that is compiled knows where it was.
"""

import os
import subprocess
import tempfile
from pathlib import Path

from dualbinary import DualBinaryError
from tools.wheels.environment import ROOT, call, environment, zig
from tools.wheels.targets import Target

__all__ = ["build_sdist", "build_wheel"]


def build_wheel(target: Target, out: Path, folder: Path | None = None) -> Path:
    """Build the wheel of `target` into `out`; its objects stay in `folder`, by default under build/wheels."""
    folder = (folder or ROOT / "build" / "wheels") / target.of.name
    folder.mkdir(parents=True, exist_ok=True)
    python = environment() / "python"
    settings = {
        "build-dir": folder,
        "cmake.define.CMAKE_TOOLCHAIN_FILE": ROOT / "tools" / "wheels" / "zig.cmake",
        "cmake.define.Python3_EXECUTABLE": python,
        "install.strip": "false",  # the linker does it: this machine's strip knows this machine's files alone
        "wheel.tags": ";".join(f"py3-none-{platform}" for platform in target.platform.split(".")),
    }
    variables = {
        "DUALBINARY_ZIG_CXX": str(_program(folder, "c++", f"-target {target.triple}")),
        "DUALBINARY_ZIG_AR": str(_program(folder, "ar")),
        "DUALBINARY_ZIG_RANLIB": str(_program(folder, "ranlib")),
        "DUALBINARY_ZIG_SYSTEM": target.system,
        "DUALBINARY_ZIG_PROCESSOR": target.processor,
    }
    options = [f"-C{name}={value}" for name, value in settings.items()]
    return _build(["--wheel", *options], out, variables)


def build_sdist(out: Path) -> Path:
    """Build the source distribution into `out`."""
    return _build(["--sdist"], out, {})


def _build(options: list[str], out: Path, variables: dict[str, str]) -> Path:
    """The file that python -m build makes, moved into `out` when it is whole."""
    out.mkdir(parents=True, exist_ok=True)
    programs = environment()
    variables = variables | {
        "PATH": os.pathsep.join([str(programs), os.environ["PATH"]]),
        "SOURCE_DATE_EPOCH": os.environ.get("SOURCE_DATE_EPOCH") or _date(),
    }
    with tempfile.TemporaryDirectory(prefix=".building-", dir=out) as stage:
        call([programs / "python", "-m", "build", "--no-isolation", "--outdir", stage, *options, ROOT], variables)
        made = [*Path(stage).iterdir()]
        if len(made) != 1:
            raise DualBinaryError(f"python -m build made {len(made)} files, expected one")
        return made[0].replace(out / made[0].name)


def _date() -> str:
    """Seconds of the last commit; of a fixed day in a tree without git."""
    command = ["git", "log", "-1", "--format=%ct"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or "1764374400"


def _program(folder: Path, name: str, arguments: str = "") -> Path:
    """A script that is zig's program of that name with the first arguments, as CMake wants one file for it.

    CMake asks who the compiler is by a program that it links, for which zig would compile the C++ library once more.
    """
    path = folder / f"zig-{name}"
    asked = 'case "$*" in *CMakeCXXCompilerId.cpp*) set -- -c "$@" ;; esac\n'
    path.write_text(f'#!/bin/sh\n{asked}exec "{zig()}" {name} {arguments} "$@"\n')
    path.chmod(0o755)
    return path
