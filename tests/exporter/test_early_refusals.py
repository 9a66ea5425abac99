"""What the export of a checkpoint would refuse is refused before that checkpoint is made, by calib or the importer."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from dualbinary.architectures.refused import REFUSED
from exporter.__main__ import main
from exporter.imported_source import imported
from tests.support.commands_here import run_here
from tests.support.tiny_models import edit_config

WISHES = (["--calibrate", "best"], ["--calibrate", "quick"], ["--bits", "3"], ["--size", "1GB"])


@pytest.fixture
def refused(tmp_path, monkeypatch, capfd):
    """Run the command, which must end with one sentence, start no other one and write nothing; returns the sentence."""
    started = run_here(monkeypatch)

    def run(source, out, *arguments):
        before = sorted(tmp_path.rglob("*"))
        assert main([str(source), str(out), *arguments, "--quiet"]) == 2
        assert started == []
        assert sorted(tmp_path.rglob("*")) == before
        return capfd.readouterr().err

    return run


@pytest.mark.parametrize("wish", WISHES, ids=" ".join)
def test_what_the_options_say(refused, pristine_model, tmp_path, wish):
    model, out = pristine_model("llama"), tmp_path / "out" / "model.onnx"
    assert "--max-length: expected at most" in refused(model, out, *wish, "--max-length", "999999")
    other = out.with_name("other.onnx")
    assert "names the model itself" in refused(model, other, *wish, "--layout-for", "transformersjs")


@pytest.mark.parametrize("wish", WISHES, ids=" ".join)
def test_files_of_another_export(refused, pristine_model, tmp_path, wish):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "genai_config.json").write_text("{}")
    error = refused(pristine_model("llama"), tmp_path / "model.onnx", *wish)
    assert "already holds genai_config.json, config.json" in error


@pytest.mark.parametrize("wish", WISHES, ids=" ".join)
def test_a_type_that_the_builder_gets_wrong(refused, tiny_model, tmp_path, wish):
    model = tiny_model("llama")
    edit_config(model, model_type="ctrl")
    assert REFUSED["ctrl"] in refused(model, tmp_path / "out" / "model.onnx", *wish)


def test_what_passes_find_in_the_graph(refused, pristine_model, tmp_path):
    words = ["--calibrate", "best", "--kv-cache", "int8"]
    assert "no block stands for the attention of layers" in refused(
        pristine_model("opt"), tmp_path / "out" / "model.onnx", *words
    )


def test_states_that_a_program_calls_by_other_names(refused, pristine_model, tmp_path):
    words = ["--calibrate", "best", "--layout-for", "transformersjs"]
    assert "has layers with states" in refused(pristine_model("lfm2"), tmp_path / "out" / "model.onnx", *words)


def test_a_text_that_is_missing_is_said_once(refused, pristine_model, tmp_path):
    words = ["--calibrate", "best", "--text", "missing.txt"]
    error = refused(pristine_model("llama"), tmp_path / "out" / "model.onnx", *words)
    assert error.startswith("error: missing.txt: no such file")
    assert error.count("\n") == 1


@pytest.fixture
def foreign(tmp_path, pristine_model):
    """A directory that says of itself that another tool quantized it; nobody reads more."""
    directory = tmp_path / "foreign"
    directory.mkdir()
    config = json.loads((pristine_model("llama") / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    return directory


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_names_and_formats_before_an_import(refused, foreign, tmp_path, kind):
    source = foreign
    if kind == "file":
        source = tmp_path / "model.gguf"
        source.write_bytes(b"GGUF")
    out = tmp_path / "out" / "model.onnx"
    other = out.with_name("other.onnx")
    assert "names the model itself" in refused(source, other, "--layout-for", "transformersjs")
    error = refused(source, out, "--planes", "3")
    assert f"--planes: expected no value for {source}, which becomes a checkpoint that is exported as it is" in error
    out.parent.mkdir()
    (out.parent / "config.json").write_text("{}")
    assert "already holds config.json" in refused(source, out)


def test_what_a_config_says_before_an_import(refused, foreign, tmp_path):
    out = tmp_path / "out" / "model.onnx"
    assert "--max-length: expected at most" in refused(foreign, out, "--max-length", "999999")
    edit_config(foreign, model_type="ctrl")
    assert REFUSED["ctrl"] in refused(foreign, out)
    shutil.copy(foreign / "config.json", foreign / "tokenizer.json")
    out.parent.mkdir()
    (out.parent / "tokenizer.json").write_text("{}")
    assert "already holds tokenizer.json" in refused(foreign, out)


@pytest.mark.parametrize("source", [".", ".."])
def test_an_import_of_the_working_directory_has_a_place_of_its_own(foreign, tmp_path, monkeypatch, source):
    (foreign / "inner").mkdir()
    monkeypatch.chdir(foreign / "inner" if source == ".." else foreign)
    monkeypatch.setattr(subprocess, "run", lambda words, **_: subprocess.CompletedProcess(words, 0, '{"notes": []}'))
    with imported(Path(source), tmp_path / "out", requantize=False, quiet=True) as (checkpoint, _):
        assert checkpoint.name == foreign.name
        assert checkpoint.resolve().parent.parent == tmp_path / "out"
