"""Fixtures of the exporter's tests: tiny model directories, the library, one call that exports."""

import shutil
from functools import partial
from pathlib import Path

import pytest

import runtime_ext
from exporter.options import DEFAULT_PLANES, ExportOptions
from exporter.pipeline import ExportResult, export
from tests.support.tiny_models import make_model


@pytest.fixture(scope="session")
def pristine_model(tmp_path_factory):
    """A tiny model directory by name, made once; not to be changed."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = make_model(name, tmp_path_factory.mktemp("models") / name)
        return made[name]

    return get


@pytest.fixture
def tiny_model(pristine_model, tmp_path):
    """A private copy of a tiny model directory by name, free to be damaged."""

    def get(name: str) -> Path:
        return Path(shutil.copytree(pristine_model(name), tmp_path / "model"))

    return get


@pytest.fixture(scope="session")
def library() -> Path:
    return runtime_ext.library_path()


@pytest.fixture
def exported(tmp_path):
    """ExportResult a directory with the given options to a fresh folder; returns the result and the file."""

    def run(model_dir: Path, **options) -> tuple[ExportResult, Path]:
        out = tmp_path / "exported" / "model.onnx"
        return export(model_dir, out, ExportOptions(**options), force=True), out

    return run


@pytest.fixture
def fitted(exported):
    """`exported` with the planes that it fits, named: no form is looked for that holds a weight exactly.

    Weights of tiny models, which are random, have none, and looking for it takes half of the time of their export.
    """
    return partial(exported, planes=DEFAULT_PLANES)
