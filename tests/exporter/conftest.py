"""Fixtures of the exporter's tests: tiny model directories, the library, one call that exports."""

import shutil
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

import runtime_ext
from exporter.options import ExportOptions
from exporter.pipeline import ExportResult, export
from tests.support.commands_here import run_here
from tests.support.quick_fit import QUICK
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
    """`exported` with the format of a quick fit, unless another one is given."""
    return partial(exported, **QUICK)


@pytest.fixture(scope="module")
def kept(pristine_model, tmp_path_factory):
    """The export of a tiny model by name and options, as of `fitted`, once for a file of tests; not to be changed."""

    @cache
    def get(name: str, **options: Any) -> tuple[ExportResult, Path]:
        out = tmp_path_factory.mktemp("kept") / "model.onnx"
        return export(pristine_model(name), out, ExportOptions(**QUICK | options)), out

    return get


@pytest.fixture
def calibration_here(monkeypatch):
    """Have calib run in this process where an export would start one; what is put in the list are more arguments."""
    more: list[str] = []
    run_here(monkeypatch, more)
    return more
