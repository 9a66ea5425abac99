"""Build libdualbinary_cuda: `python -m tools.build_cuda [--architectures 90]` compiles it and sees that it loads.

The compiler is nvcc 13: the one that CUDACXX names, else the one on PATH, else one from PyPI, which is installed into
.venv-cuda on first use (constraints-cuda.txt). No GPU is needed. The library for all architectures is
build/cuda/libdualbinary_cuda.so, that for some of them build/cuda-90/libdualbinary_cuda.so; the path is the last line
of the output.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from dualbinary import DualBinaryError, InputError
from dualbinary.cli.console import add_common_options, run
from runtime_ext.cuda_capi import describe
from tools.environments import Environment

ROOT = Path(__file__).resolve().parent.parent
COMPILER_MAJOR = 13
ENVIRONMENT = ROOT / ".venv-cuda"
CONSTRAINTS = ROOT / "constraints-cuda.txt"
COMPILER_PACKAGES = (
    "nvidia-cuda-nvcc",
    "nvidia-cuda-runtime",
    "nvidia-cuda-crt",
    "nvidia-nvvm",
    "nvidia-cuda-cccl",
)
TARGETS = ("dualbinary_cuda", "dualbinary_cuda_probe")  # the second is for tests of single matrix instructions


def compiler(*, offline: bool = False) -> Path:
    """Find an nvcc of the right version.

    Raises InputError where CUDACXX names another one, or, `offline`, where there is none.
    """
    named = os.environ.get("CUDACXX")
    if named:
        path = shutil.which(named)
        found = version(Path(path)) if path else None
        if path is None or found != COMPILER_MAJOR:
            came = "no such program" if path is None else f"got version {found}"
            raise InputError(f"CUDACXX={named}: expected nvcc {COMPILER_MAJOR}, {came}; unset it to get one from PyPI")
        return Path(path)
    path = shutil.which("nvcc")
    if path is not None and version(Path(path)) == COMPILER_MAJOR:
        return Path(path)
    if offline:
        raise InputError(f"no nvcc {COMPILER_MAJOR} on PATH: name one by CUDACXX, or leave --offline out to get it")
    return installed_compiler()


def version(nvcc: Path) -> int | None:
    """Major version, or None if the program does not say one."""
    words = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False).stdout
    match = re.search(r"release (\d+)\.", words)
    return int(match[1]) if match else None


def installed_compiler() -> Path:
    """Return the one from PyPI; install it where it is missing, or where the pins have changed."""
    Environment(ENVIRONMENT, COMPILER_PACKAGES, CONSTRAINTS).python()
    found = sorted(ENVIRONMENT.glob("lib/python*/site-packages/nvidia/cu13/bin/nvcc"))
    if not found:
        raise DualBinaryError(f"{ENVIRONMENT.name} has no nvcc; remove it and try again")
    return found[0]


def build(architectures: list[str], jobs: int, *, offline: bool = False) -> Path:
    """Configure and compile. Returns the library's path. Raises DualBinaryError where a step fails."""
    nvcc = compiler(offline=offline)
    folder = ROOT / "build" / "-".join(["cuda", *architectures])
    cache = folder / "CMakeCache.txt"
    if cache.is_file() and f"CMAKE_CUDA_COMPILER:FILEPATH={nvcc}\n" not in cache.read_text():
        shutil.rmtree(folder)  # CMake does not change the compiler of a build tree
    options = [f"-DCMAKE_CUDA_COMPILER:FILEPATH={nvcc}", f"-DPython3_EXECUTABLE={sys.executable}"]
    options += ["-DDUALBINARY_CPU=OFF", "-DDUALBINARY_CUDA_PROBE=ON"]
    if architectures:
        options.append(f"-DDUALBINARY_CUDA_ARCHITECTURES={';'.join(architectures)}")
    call(["cmake", "--log-level=WARNING", "--preset", "cuda", "-B", folder, *options])
    call(["cmake", "--build", folder, "--target", *TARGETS, "--parallel", str(jobs)])
    return folder / f"lib{TARGETS[0]}.so"


def call(command: list[str | Path]) -> None:
    """Run a program, with this environment's cmake and ninja; what it prints goes to standard error."""
    environment = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    result = subprocess.run(command, cwd=ROOT, env=environment, stdout=sys.stderr, check=False)
    if result.returncode:
        raise DualBinaryError(f"`{' '.join(map(str, command))}` failed with exit code {result.returncode}")


def summary(facts: dict[str, Any]) -> str:
    """Describe the library in one line."""
    devices = ", ".join(f"{each['name']} ({each['compute_capability']})" for each in facts["devices"])
    return (
        f"libdualbinary_cuda {facts['version']}: architectures {', '.join(map(str, facts['architectures']))}; "
        f"kernels {', '.join(each['name'] for each in facts['kernels'])}; "
        f"{devices or 'no device: ' + str(facts['error'])}"
    )


def _command(args: argparse.Namespace) -> None:
    wrong = [name for name in args.architectures if not name.isdecimal()]
    if wrong:
        raise InputError(f"--architectures: expected numbers such as 90, got {wrong[0]}")
    library = build(args.architectures, args.jobs, offline=args.offline)
    facts = describe(library)  # loads it, on a machine without a driver, too
    print(json.dumps({"library": str(library), **facts}) if args.json else f"{summary(facts)}\n{library}")


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.build_cuda", description="Build the kernels for NVIDIA GPUs."
    )
    parser.add_argument(
        "--architectures", nargs="*", default=[], metavar="SM", help="such as 80 90 (default: all that are supported)"
    )
    parser.add_argument("--jobs", type=int, default=2, help="compilers at a time (default 2)")
    parser.add_argument("--offline", action="store_true", help="download no compiler where there is none")
    add_common_options(parser)
    return run(parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
