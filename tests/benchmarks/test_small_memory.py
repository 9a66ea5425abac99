"""The benchmark below a limit of memory, on a model of a few kilobytes."""

import json

import pytest

from benchmarks.models.small_memory import Group, main
from tests.support import tiny_sessions as tiny

SHORT = ["--rounds", "1", "--prompt", "4", "--tokens", "2", "--threads", "1"]


def test_a_row_for_each_file_and_limit(tmp_path, capsys):
    model = tiny.make_model(tiny.make_weights(tmp_path / "weights"), tmp_path / "model")

    assert main([str(model), "--limits", "256", "1024", "--json", *SHORT]) == 0

    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["file"], row["limit"]) for row in rows] == [
        (file, limit) for file in ("nothing", str(model)) for limit in (256, 1024)
    ]
    nothing, one = rows[0], rows[2]
    assert one["private"] > nothing["private"] > 0
    assert min(one["load"], one["prompt"], one["token"]) > 0


def test_a_run_that_fails_says_how(tmp_path, capsys):
    assert main([str(tmp_path / "missing.onnx"), "--limits", "512", *SHORT]) == 0
    assert "missing.onnx" in capsys.readouterr().out.splitlines()[-1]


def test_no_file_is_an_error(capsys):
    assert main(SHORT) == 2
    assert "expected exported models" in capsys.readouterr().err


def test_the_group_is_gone_afterwards():

    group = Group.made()
    if group is None:
        pytest.skip("this user can make no memory control group")
    with group.limited(256):
        assert group.directory.exists()
    assert not group.directory.exists()
