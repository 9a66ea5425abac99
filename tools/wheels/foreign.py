"""Running libraries of other systems on this Linux machine, as far as that goes: musl by its loader, Windows by wine.

`multiplied` gives a product by the C interface (capi_check.c). For Windows there is ONNX Runtime's library in a Python
package, so that whole models run there, too: `windows_onnxruntime`.
"""

import os
import shutil
import struct
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dualbinary import DualBinaryError
from runtime_ext.capi import Spec
from tools.wheels.environment import ROOT, zig
from tools.wheels.targets import Target

__all__ = ["WINE_SETTINGS", "NotHereError", "compiled", "library_of", "multiplied", "runner", "windows_onnxruntime"]

WINE_SETTINGS = {"WINEDEBUG": "-all", "WINEDLLOVERRIDES": "mscoree,mshtml="}
"""Of the environment of wine: no messages, and no offer to download what it lacks."""

_ONNXRUNTIME = "1.32.0"


class NotHereError(Exception):
    """This machine lacks something; the message says what to install."""


@dataclass(frozen=True)
class Product:
    """What a library answered: its version and kernel, and Y [M, N] as the bits of float32 numbers."""

    version: str
    kernel: str
    bits: tuple[str, ...]


def runner(target: Target) -> list[str]:
    """The words before a program of `target`. Raises NotHereError, naming the Debian package that is missing."""
    loaders = {"linux-musl-x64": ("/lib/ld-musl-x86_64.so.1", "musl"), "windows-x64": ("wine", "wine64 and wine")}
    program, package = loaders.get(target.of.name, ("", ""))
    if target.of.name == "linux-x64":
        return []
    if not program:
        raise NotHereError(f"nothing here runs a program of {target.of.name}; its library is checked as a file")
    if shutil.which(program) is None:
        raise NotHereError(f"{program} was not found: install the Debian package {package}")
    return [program]


def compiled(source: Path, target: Target, folder: Path, *arguments: str | Path) -> Path:
    """Compile a C or C++ program for `target` into `folder`.

    With the optimization of the library, and not from the root, above zig's own folder: then zig takes the C and C++
    libraries of that build, in place of making them once more for minutes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    out = folder / f"{source.stem}{'.exe' if target.system == 'Windows' else ''}"
    # Dynamic, for musl: a program that is linked statically opens no libraries.
    language = ["c++", "-std=c++20"] if source.suffix == ".cc" else ["cc", "-dynamic"]
    words = [
        zig(),
        *language,
        "-target",
        target.triple,
        "-O3",
        "-DNDEBUG",
        "-s",
        f"-I{ROOT / 'runtime_ext' / 'src'}",
        source,
    ]
    command = [*words, *arguments, "-o", out]
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise DualBinaryError(f"{source.name} does not compile for {target.of.name}: {answer.stderr[-2000:]}")
    return out


def library_of(wheel: Path, target: Target, folder: Path) -> Path:
    """The library of a wheel, unpacked into `folder`."""
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(f"runtime_ext/{target.of.installed_file}", folder))


def multiplied(
    library: Path,
    target: Target,
    folder: Path,
    spec: Spec,
    planes: npt.NDArray[np.uint8],
    scales: npt.NDArray[np.generic],
    x: npt.NDArray[np.float32],
) -> Product:
    """The product of x [M, K] with a weight by a library of `target`, run here in `folder`. Raises NotHereError."""
    before = runner(target)
    program = compiled(ROOT / "tools" / "wheels" / "capi_check.c", target, folder)
    problem = folder / "problem.bin"
    numbers = [getattr(spec, field[0]) for field in Spec._fields_]
    head = struct.pack("<14q", *numbers, len(x), planes.nbytes, scales.nbytes)
    problem.write_bytes(head + planes.tobytes() + scales.tobytes() + np.ascontiguousarray(x, np.float32).tobytes())
    lines = run([*before, program, library, problem], folder).splitlines()
    version, kernel = lines[0].split()
    return Product(version, kernel, tuple(lines[1:]))


def run(command: list[str | Path], folder: Path) -> str:
    """What a program says, run with wine's settings and a prefix in `folder`. Raises DualBinaryError where it fails."""
    variables = {**os.environ, **WINE_SETTINGS, "WINEPREFIX": os.environ.get("WINEPREFIX", str(folder / "wine"))}
    answer = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise DualBinaryError(f"{Path(command[-1]).name} ended with {answer.returncode}: {answer.stderr[-1000:]}")
    return answer.stdout


def windows_onnxruntime(folder: Path) -> Path:
    """ONNX Runtime's DLL for 64-bit Windows, out of its Python package, in `folder`."""
    found = folder / "onnxruntime" / "capi" / "onnxruntime.dll"
    if not found.is_file():
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        wanted = ["--platform=win_amd64", "--python-version=3.11", f"--dest={folder}", f"onnxruntime=={_ONNXRUNTIME}"]
        answer = subprocess.run([*pip, *wanted], capture_output=True, text=True, check=False)
        wheels = sorted(folder.glob("onnxruntime-*win_amd64.whl"))
        if answer.returncode or not wheels:
            raise NotHereError(f"pip could not fetch onnxruntime for Windows: {answer.stderr.strip()[-300:]}")
        with zipfile.ZipFile(wheels[0]) as archive:
            archive.extract("onnxruntime/capi/onnxruntime.dll", folder)
    return found
