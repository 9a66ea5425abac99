"""Fixtures shared by the tests that go from end to end."""

import subprocess
from pathlib import Path

import onnxruntime
import pytest

SOURCE = Path(__file__).resolve().parents[2] / "examples" / "cpp_host"


@pytest.fixture(scope="session")
def cpp_host(tmp_path_factory) -> Path:
    """The C++ example, built against the shared library inside the onnxruntime wheel."""
    libraries = sorted((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))
    if not libraries:
        pytest.skip("this onnxruntime wheel has no separate shared library")
    build = tmp_path_factory.mktemp("cpp_host")
    subprocess.run(["cmake", "-S", SOURCE, "-B", build, f"-DONNXRUNTIME_LIBRARY={libraries[0]}"], check=True)
    subprocess.run(["cmake", "--build", build], check=True)
    return build / "cpp_host"
