"""Load time and memory of a tiny model, in fresh processes."""

import json

from benchmarks.models.load_time import main
from tests.support import tiny_sessions as tiny


def test_a_model_is_loaded_in_fresh_processes(tmp_path, monkeypatch, capsys):
    path = tiny.make_model(tiny.make_weights(tmp_path / "weights"), tmp_path / "model")
    monkeypatch.chdir(tmp_path)  # the processes run in the repository, wherever the command does
    assert main(["model/model.onnx", "--rounds", "1", "--threads", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["models"][str(path)]
    assert found["load"] > 0
    assert found["file"] == sum(file.stat().st_size for file in path.parent.glob("model.onnx*"))
    assert found["peak, token"] >= found["peak"] > found["own peak"] > 0


def test_a_model_that_does_not_load_is_one_line(tmp_path, capsys):
    assert main([str(tmp_path / "none.onnx"), "--rounds", "1"]) == 1
    error = capsys.readouterr().err
    assert "none.onnx" in error
    assert error.count("\n") == 1
