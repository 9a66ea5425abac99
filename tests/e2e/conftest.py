"""Fixtures shared by the tests that go from end to end."""

from pathlib import Path

import onnxruntime
import pytest

from tests.support.cmake_builds import BUILDS, build

SOURCE = Path(__file__).resolve().parents[2] / "examples" / "cpp_host"


@pytest.fixture(scope="session")
def cpp_host() -> Path:
    """The C++ example, built against the shared library inside the onnxruntime wheel."""
    libraries = sorted((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))
    if not libraries:
        pytest.skip("this onnxruntime wheel has no separate shared library")
    folder = BUILDS / "cpp_host"
    # What it computes is done by libraries, which are optimized.
    build(SOURCE, folder, "cpp_host", f"-DONNXRUNTIME_LIBRARY={libraries[0]}", "-DCMAKE_BUILD_TYPE=Debug")
    return folder / "cpp_host"
