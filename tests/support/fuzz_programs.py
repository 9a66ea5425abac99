"""Fuzz targets of the library as programs of any compiler, which run numbered inputs: for a short form of fuzzing."""

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "runtime_ext" / "fuzz"
SHARED = ("calls", "fake_ort", "products", "standalone")
# The archive of `make setup` is not instrumented, but what it does to memory by functions of the C library is seen.
# `make fuzz` and the test marked slow have all of it.
FLAGS = ("-std=c++20", "-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def build_tree() -> Path:
    """Where `make setup` builds."""
    trees = sorted((ROOT / "build").glob("py3-none-*/build.ninja"))
    if not trees:
        pytest.skip("no build tree under build/: run make setup")
    return trees[-1].parent


def headers() -> Path:
    """ONNX Runtime's headers, where the build of the library found them."""
    line = next(line for line in (build_tree() / "build.ninja").read_text().splitlines() if " -isystem " in line)
    return Path(line.split(" -isystem ")[1].split()[0])


def build_programs(targets: list[str], folder: Path) -> dict[str, Path]:
    """Compile the targets and link them to the archive of the build tree. Fails the test where that fails."""
    tree = build_tree()
    includes = [f"-I{SOURCES}", f"-I{SOURCES.parent / 'src'}", f"-I{tree / 'runtime_ext' / 'generated'}"]

    def compile_one(name: str) -> None:
        source, out = SOURCES / f"{name}.cc", folder / f"{name}.o"
        call("c++", *FLAGS, *includes, "-isystem", headers(), "-c", source, "-o", out)

    def link(name: str) -> Path:
        objects = [folder / f"{each}.o" for each in (name, *SHARED)]
        out = folder / f"fuzz_{name}"
        call("c++", *FLAGS, *objects, tree / "libdualbinary.a", "-o", out, "-lpthread", "-ldl")
        return out

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(compile_one, [*SHARED, *targets]))
        return dict(zip(targets, pool.map(link, targets), strict=True))


def call(*command: object) -> str:
    """What a program prints. Fails the test with its words where it fails."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        pytest.fail(f"{command[0]} ended with {done.returncode}: {done.stderr[-4000:]}")
    return done.stdout
