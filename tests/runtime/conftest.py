"""Fixtures shared by the runtime's tests.

`tiny` needs the exporter's packages. It is imported where a model is made, so that the tests of kernels and op also run
where there are none, such as under an emulator of another CPU.
"""

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory) -> Path:
    """Directory of a tiny random Llama."""
    from tests.support import tiny_sessions as tiny

    return tiny.make_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="session")
def tiny_model(tiny_weights, tmp_path_factory) -> Path:
    """ONNX file of the tiny Llama in float32 with shared cache buffers. Not to be changed: see `tiny_copy`."""
    from tests.support import tiny_sessions as tiny

    return tiny.make_model(tiny_weights, tmp_path_factory.mktemp("model"))


@pytest.fixture
def tiny_copy(tiny_model, tmp_path) -> Path:
    """A copy of `tiny_model` with all the files beside it, to damage."""
    return Path(shutil.copytree(tiny_model.parent, tmp_path / "model")) / tiny_model.name
