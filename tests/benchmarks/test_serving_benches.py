"""The benchmarks of several sequences, of speculation and of a server under load, on a tiny model."""

import json
import math

import pytest

from benchmarks.models import batch, serve_guesses, serve_load, speculate
from exporter.options import ExportOptions
from exporter.pipeline import export
from tests.support import tiny_sessions as tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("serving")
    export(tiny.make_weights(directory / "hf"), directory / "out" / "model.onnx", ExportOptions())
    tiny.make_tokenizer().save(str(directory / "out" / "tokenizer.json"))
    return directory / "out" / "model.onnx"


def test_several_sequences_are_timed_and_a_step_is_taken_apart(model, capsys):
    options = ["--sequences", "1", "3", "--prompt-length", "8", "--steps", "4", "--rounds", "2", "--threads", "1"]
    assert batch.main([str(model), *options, "--profile", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    first, second = result["rows"]
    assert (first["sequences"], first["ratio"], second["sequences"]) == (1, 1.0, 3)
    assert second["tokens_per_second"] == pytest.approx(3e3 / second["milliseconds"])
    assert second["ratio"] == pytest.approx(3 * first["milliseconds"] / second["milliseconds"])
    assert {len(values) for values in result["operators"].values()} == {2}
    assert result["operators"]["DualBinaryMatMul"][1] > 0
    assert batch.main([str(model), "--sequences", "0"]) == 2


@pytest.fixture
def requests(model, tmp_path):
    """A file of one request, and a model that takes it."""
    (model.parent / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    file = tmp_path / "requests.toml"
    file.write_text('[[prompt]]\nkind = "edit"\nrequest = "Say"\ntext = "ab ab ab"\n')
    return file


def test_a_server_with_guesses_answers_as_one_without(model, requests, capsys):
    options = ["--prompts", str(requests), "--tokens", "12", "--rounds", "1", "--threads", "1"]
    assert serve_guesses.main([str(model), *options, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    (row,) = result["requests"]
    assert (row["kind"], row["tokens"]) == ("edit", 12)
    assert result["ratio"] == pytest.approx(row["plain_seconds"] / row["seconds"])
    assert serve_guesses.main([str(model), "--rounds", "0"]) == 2


@pytest.mark.parametrize("drafted", [False, True])
def test_answers_with_guesses_are_held_against_plain_ones(model, requests, capsys, drafted):
    options = ["--prompts", str(requests), "--tokens", "12", "--rounds", "1", "--threads", "1"]
    options += ["--draft", str(model)] if drafted else []
    assert speculate.main([str(model), *options, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    (row,) = result["requests"]
    assert (row["kind"], row["prompt_tokens"]) == ("edit", len("Say\n\nab ab ab"))
    assert row["runs"] == row["tokens"] - 1 - row["accepted"]
    assert result["ratio"] == pytest.approx(row["plain_seconds"] / row["seconds"])
    assert speculate.main([str(model), *options]) == 0
    assert "the same tokens in all answers" in capsys.readouterr().out


def test_answers_without_decoding_have_no_ratio(model, capsys):
    assert speculate.main([str(model), "--tokens", "1"]) == 2
    assert "--tokens: expected at least 2, got 1" in capsys.readouterr().err
    assert math.isnan(speculate.Request("edit", 5, 1, 0.0, 0.0, 0, 0, 0).ratio)


def test_clients_are_answered_and_the_server_ends(model, capsys):
    options = ["--clients", "3", "--seconds", "1", "--words", "2", "--slots", "2", "--threads", "1"]
    assert serve_load.main([str(model), *options, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["errors"], result["refused"]) == ({}, 0)
    assert result["answers"] >= 3
    assert result["tokens_per_second"] == result["tokens"] / 1
    assert 0 < result["token_p50"] <= result["token_p95"]
    assert result["memory_start"] > 0


def test_a_server_that_does_not_start_is_one_line(tmp_path, capfd):
    assert serve_load.main([str(tmp_path / "none.onnx"), "--seconds", "1"]) == 1
    assert "no such file" in capfd.readouterr().err
