"""`python -m tools.soak` and `tools.soak.leaks` on a tiny model, for a few requests of each load."""

import json
import shutil

import pytest

from exporter.options import ExportOptions
from exporter.pipeline import export
from tests.support import tiny_sessions as tiny
from tools.soak import __main__ as soak
from tools.soak import leaks
from tools.soak.memory import growth
from tools.soak.task import Tally

LOADS = ["full_context", "own_sessions", "ragged_batch", "server", "shared_session"]
FEW = ["--requests", "12", "--seconds", "300", "--threads", "3", "--distinct", "6"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("soak")
    export(tiny.make_weights(directory / "hf"), directory / "out" / "model.onnx", ExportOptions())
    tiny.make_tokenizer().save(str(directory / "out" / "tokenizer.json"))
    return directory / "out" / "model.onnx"


@pytest.mark.parametrize("library", [True, False])
def test_every_load_gives_the_answers_of_a_request_alone(model, capsys, library):
    options = FEW if library else [*FEW, "--no-library", "--only", "shared_session"]
    assert soak.main([str(model), *options, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["loads"]
    assert [row["load"] for row in rows] == (LOADS if library else ["shared_session"])
    for row in rows:
        others = sum(row["other"].get(name, 0) for name in ("canceled", "vanished"))
        assert (row["answers"] + others, row["wrong"], row["errors"], row["passed"]) == (12, 0, [], True)
        assert 0 < row["latency"]["p50"] <= row["latency"]["p95"] <= row["latency"]["p100"]


def test_sequences_reach_the_end_of_the_context_and_no_further(model, capsys):
    assert soak.main([str(model), *FEW, "--only", "full_context", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["loads"]
    assert row["other"]["refused beyond the end"] > 0


def test_a_wrong_answer_is_told(model, capsys, monkeypatch):
    right = Tally.note
    monkeypatch.setattr(Tally, "note", lambda self, tokens, seconds, right: _note(self, tokens, seconds))

    def _note(tally, tokens, seconds):
        right(tally, tokens, seconds, right=len(tally.seconds) != 3)

    assert soak.main([str(model), *FEW, "--only", "shared_session"]) == 1
    printed = capsys.readouterr()
    assert "12 answers" in printed.out
    assert "shared_session: 1 of 12 answers are not those of a request alone" in printed.err


def test_an_error_in_a_thread_is_told(model, capsys, monkeypatch):
    def fail(*_):
        raise ValueError("no room")

    monkeypatch.setattr("tools.soak.threads.answer", fail)
    assert soak.main([str(model), *FEW, "--only", "own_sessions"]) == 1
    assert "own_sessions: ValueError: no room" in capsys.readouterr().err


def test_memory_that_grows_is_not_constant():
    mega = 1 << 20
    steady = growth([100 * mega + place for place in range(100)])
    filling = growth([(20 + min(place, 20)) * mega for place in range(100)])  # pools, at the beginning
    grown = growth([(100 + place) * mega for place in range(100)])
    assert steady is not None and filling is not None and grown is not None
    assert (steady.constant, filling.constant, grown.constant, grown.peak) == (True, True, False, 199 * mega)
    assert growth([mega] * 5) is None


def test_memory_is_told_once_caches_are_filled(model, capsys):
    options = ["--requests", "400", "--seconds", "10", "--threads", "2", "--only", "shared_session", "--json"]
    assert soak.main([str(model), *options]) == 0
    (row,) = json.loads(capsys.readouterr().out)["loads"]
    assert 0 < row["memory"]["early"] <= row["memory"]["peak"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threads", "0"], "--threads: expected at least 1, got 0"),
        (["--seconds", "0"], "--seconds: expected above 0, got 0"),
        (["--context", "65"], "--context: expected 4 to the 64 of the model, got 65"),
    ],
)
def test_wrong_options_are_named(model, capsys, arguments, message):
    assert soak.main([str(model), *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("heaptrack") is None, reason="heaptrack is not here")
def test_nothing_is_left_behind_by_a_request(model, capsys):
    options = ["--requests", "4", "12", "--only", "shared_session", "--threads", "2", "--json"]
    assert leaks.main([str(model), *options]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["few"] > 0  # what Python keeps to its end


def test_leaks_need_two_numbers_in_order(model, capsys, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert leaks.main([str(model), "--requests", "5", "5"]) == 2
    assert "expected two numbers, the second one larger, got 5 and 5" in capsys.readouterr().err
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert leaks.main([str(model)]) == 2
    assert "heaptrack is not here; install it" in capsys.readouterr().err
