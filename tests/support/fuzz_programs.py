"""Fuzz targets of the library as programs of any compiler, which run numbered inputs: for a short form of fuzzing."""

import subprocess
from pathlib import Path

import pytest

from tests.support.cmake_builds import BUILDS, build

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "tests" / "tools" / "fuzz_programs"


def build_tree() -> Path:
    """Where `make setup` builds."""
    trees = sorted(BUILDS.glob("py3-none-*/build.ninja"))
    if not trees:
        pytest.skip("no build tree under build/: run make setup")
    return trees[-1].parent


def headers() -> Path:
    """ONNX Runtime's headers, where the build of the library found them."""
    line = next(line for line in (build_tree() / "build.ninja").read_text().splitlines() if " -isystem " in line)
    return Path(line.split(" -isystem ")[1].split()[0])


def build_programs(targets: list[str]) -> dict[str, Path]:
    """The programs of the targets, brought up to date. Fails the test where they do not build."""
    folder = BUILDS / "fuzz_programs"
    places = {"LIBRARY_TREE": build_tree(), "ONNXRUNTIME_INCLUDE_DIR": headers(), "TARGETS": ";".join(targets)}
    build(SOURCE, folder, "all", *(f"-D{name}={value}" for name, value in places.items()))
    return {target: folder / f"fuzz_{target}" for target in targets}


def call(*command: object) -> str:
    """What a program prints. Fails the test with its words where it fails."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        pytest.fail(f"{command[0]} ended with {done.returncode}: {done.stderr[-4000:]}")
    return done.stdout
