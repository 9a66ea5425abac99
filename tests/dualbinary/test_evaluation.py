"""Texts by name, what several texts say together, and the table."""

import json
import math
from pathlib import Path

import pytest

from dualbinary import InputError
from dualbinary.errors import OptionError
from dualbinary.evaluation.figures import ModelFigures, TaskFigure, TextFigures
from dualbinary.evaluation.table import render
from dualbinary.evaluation.tasks import TaskOptions
from dualbinary.evaluation.texts import NamedText, check_windows, named_texts


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("wiki.test.raw", "a.txt", "b.txt", "x=y.txt", "news.jsonl.xz"):
        (tmp_path / name).write_text("words")


@pytest.mark.parametrize(
    ("word", "name", "parts"),
    [
        ("wiki.test.raw", "wiki.test", ("wiki.test.raw",)),
        ("news.jsonl.xz", "news", ("news.jsonl.xz",)),
        ("both=a.txt,b.txt", "both", ("a.txt", "b.txt")),
        ("some=?.txt", "some", ("?.txt",)),
        ("?.txt", "?.txt", ("?.txt",)),
        ("x=y.txt", "x=y", ("x=y.txt",)),  # a file of that name
    ],
)
@pytest.mark.usefixtures("files")
def test_a_word_is_a_text_with_a_name(word, name, parts):
    assert named_texts([word]) == [NamedText(name, parts)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.txt", "a=b.txt"], "another text is called a as well; give it a name of its own, as in b=b.txt"),
        (["=a.txt"], "expected NAME=FILE"),
        (["a=b.txt,"], "expected NAME=FILE"),
        (["missing.txt"], "no such file"),
        (["one=a.txt,missing.txt"], "missing.txt: no such file"),
    ],
)
@pytest.mark.usefixtures("files")
def test_words_that_name_no_text_are_refused(words, message):
    with pytest.raises(InputError, match=message):
        named_texts(words)


@pytest.mark.parametrize(("name", "value"), [("limit", 3), ("shots", 0), ("tasks_dir", Path("tasks"))])
def test_what_says_how_tasks_run_needs_tasks(name, value):
    with pytest.raises(OptionError, match=f"{name}: expected no value without tasks"):
        TaskOptions(**{name: value})
    assert getattr(TaskOptions(("piqa",), **{name: value}), name) == value


@pytest.mark.parametrize(("count", "length"), [(0, 8), (1, 1)])
def test_windows_have_a_token_to_predict(count, length):
    with pytest.raises(InputError, match="at least 1 window of 2 tokens"):
        check_windows(count, length)


TEXTS = (
    TextFigures("long", (1.0, 2.0, 3.0), 1.5, 0.1, 0.9),
    TextFigures("short", (4.0,), 6.0, 0.3, 0.5),
)


def test_texts_count_alike_however_long_they_are():
    found = ModelFigures("m", "checkpoint", TEXTS).over_texts()
    assert found["perplexity"] == pytest.approx(math.exp((2 + 4) / 2))
    assert found["ratio"] == pytest.approx(3)  # the root of 1.5 * 6
    assert (found["kl"], found["agreement"]) == (pytest.approx(0.2), pytest.approx(0.7))


def test_json_has_every_text_and_their_means():
    task = TaskFigure("piqa", "acc", 0.5, 0.1, 10, 0)
    found = ModelFigures("m", "onnx", TEXTS, (task,)).to_json()
    assert found["nll"] == [1, 2, 3, 4]
    values = {"nll": (4.0,), "perplexity": pytest.approx(math.e**4), "ratio": 6.0, "kl": 0.3, "agreement": 0.5}
    assert found["texts"][1] == {"name": "short", **values}
    assert found["tasks"] == [{"task": "piqa", "metric": "acc", "value": 0.5, "stderr": 0.1, "count": 10, "shots": 0}]
    assert ModelFigures("m", "onnx", (TextFigures("t", (1.0,)),)).to_json()["ratio"] is None


def test_the_table_is_aligned_and_leaves_out_what_nobody_knows():
    plain = ModelFigures("out.onnx", "onnx", (TextFigures("wiki", (1.0,)),))
    assert render([plain]).splitlines() == ["text  model     perplexity", "wiki  out.onnx       2.718"]
    full = ModelFigures("model", "full precision", tuple(TextFigures(t.name, (0.0,), 1.0, -1e-9, 1.0) for t in TEXTS))
    lines = render([full, ModelFigures("ours", "checkpoint", TEXTS)]).splitlines()
    assert lines[0].split() == ["text", "model", "perplexity", "ratio", "KL", "same", "top", "token"]
    assert [line.split()[:2] for line in lines[1:5]] == [["long", "model"], ["ours", "7.389"], ["short", "model"],
                                                        ["ours", "54.598"]]  # fmt: skip
    assert "-0.0000" not in lines[1]
    assert lines[5].startswith("mean of 2  model")
    assert len({len(line) for line in lines}) == 1
    answers = (TaskFigure("piqa", "acc", 0.5, None, 10, None),)
    assert render([ModelFigures("m", "onnx", (), answers)]).splitlines()[1].split() == [
        "piqa",
        "m",
        "acc",
        "0.5000",
        "10",
    ]


def test_a_model_that_has_diverged_has_an_infinite_perplexity_and_a_report():
    texts = TextFigures("t", (800.0, 900.0), math.inf, 840.0, 0.0), TextFigures("u", (1.0,))
    model = ModelFigures("a", "onnx", texts)
    assert model.texts[0].perplexity == math.inf
    found = json.loads(json.dumps(model.to_json(), allow_nan=False))
    assert (found["texts"][0]["perplexity"], found["texts"][0]["ratio"]) == (None, None)
    assert found["nll"][:2] == [800.0, 900.0]
    assert "inf" in render([model])
