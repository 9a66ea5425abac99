"""What the exporter would not take is said before anything is trained, by a run and by its plan."""

import json
import shutil

import pytest

from calib.__main__ import main
from tests.support.tiny_models import edit_config, make_model

WORDS = ("--planes", "2", "--generate", "12", "--length", "16", "--device", "cpu")

DOUBTS = {
    "is not supported for llama": {"hidden_act": "laplace"},
    "'ctrl' cannot be exported: the graph builder": {"model_type": "ctrl"},
    "nobody has compared the export of a model_type 'diffllama'": {"model_type": "diffllama"},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model("llama", tmp_path_factory.mktemp("models") / "llama")


@pytest.mark.parametrize("reason", DOUBTS)
def test_what_the_exporter_would_refuse_is_said_before_any_work(reason, model, tmp_path, capsys):
    shutil.copytree(model, tmp_path / "model")
    edit_config(tmp_path / "model", **DOUBTS[reason])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").touch()
    assert main([str(tmp_path / "model"), str(tmp_path / "out"), *WORDS]) == 2
    warning, error = capsys.readouterr().err.splitlines()[-2:]
    assert warning.startswith("warning: ")
    assert reason in warning
    assert "is not empty" in error


def test_a_plan_has_the_warning_and_a_model_that_is_exported_has_none(model, tmp_path, capsys):
    shutil.copy(model / "config.json", tmp_path)
    plan_of = [str(tmp_path), str(tmp_path / "out"), *WORDS, "--plan", "--json"]
    assert main(plan_of) == 0
    quiet = capsys.readouterr()
    edit_config(tmp_path, hidden_act="laplace")
    assert main(plan_of) == 0
    said = capsys.readouterr()
    (warning,) = json.loads(said.out)["warnings"]
    assert f"warning: {warning}\n" in said.err
    assert json.loads(quiet.out)["warnings"] == []
    assert "warning: " not in quiet.err
