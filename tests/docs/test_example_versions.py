"""Versions of ONNX Runtime that the examples ask for run exports."""

import re
from pathlib import Path

import pytest

from runtime_ext.doctor.machine import OLDEST_RUNTIME

ROOT = Path(__file__).resolve().parents[2]
NAMED = re.compile(r"(?i)onnxruntime(?!-genai)[^\n]*?\b(\d+)\.(\d+)\.\d+")
FILES = sorted(
    path
    for pattern in ("*.csproj", "*.kts", "package.json", "Package.swift", "*.txt")
    for path in (ROOT / "examples").rglob(pattern)
    if "node_modules" not in path.parts and NAMED.search(path.read_text(encoding="utf-8"))
)


def test_the_examples_name_versions():
    assert {path.suffix for path in FILES} >= {".csproj", ".kts", ".json", ".swift"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_version_that_an_example_names_runs_exports(path):
    versions = [tuple(map(int, found)) for found in NAMED.findall(path.read_text(encoding="utf-8"))]
    assert min(versions) >= OLDEST_RUNTIME
