"""The table of hosts: who agrees, who does not, who is not here."""

import json

import pytest

import runtime_ext
from exporter.options import ExportOptions
from exporter.pipeline import export
from tests.support.tiny_models import make_model
from tests.support.tiny_tokenizers import write_tokenizer
from tools.hosts.__main__ import ask, main, names
from tools.hosts.task import NotHereError, Task

COUNT = 6


@pytest.fixture(scope="module")
def arguments(tmp_path_factory) -> list[str]:
    work = tmp_path_factory.mktemp("hosts")
    source = make_model("llama", work / "model")
    write_tokenizer(source)
    export(source, work / "out" / "model.onnx", ExportOptions(), library=runtime_ext.library_path())
    paths = [str(work / "out" / "model.onnx"), "--source", str(source), "--work", str(work / "work")]
    return [*paths, "--prompt", "abc", "--count", str(COUNT)]


class Answers:
    NAME: str = "a host"

    def __init__(self, answer: list[int] | Exception) -> None:
        self._answer = answer

    def tokens(self, task: Task) -> list[int]:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


@pytest.fixture
def task(tmp_path) -> Task:
    return Task(tmp_path / "model.onnx", tmp_path, tmp_path, (1, 2), 3)


@pytest.mark.parametrize(
    ("answer", "result", "detail"),
    [
        ([7, 8, 9], "same", ""),
        ([7, 5, 9], "DIFFERENT", "from token 2 on; 3 tokens"),
        ([7, 8], "DIFFERENT", "from token 3 on; 2 tokens"),
        (NotHereError("apt install wine"), "not here", "apt install wine"),
        (ValueError("line\nof two"), "FAILED", "ValueError: line of two"),
    ],
)
def test_a_host_is_held_against_the_tokens_of_the_first(task, answer, result, detail):
    row = ask(Answers(answer), task, [7, 8, 9])
    assert (row.result, row.detail) == (result, detail)


def test_the_hosts_of_python_give_the_same_tokens(arguments, capsys):
    only = ["onnxruntime_function", "genai_library", "genai_function"]
    assert main([*arguments, "--json", "--only", *only]) == 0
    rows = json.loads(capsys.readouterr().out)["hosts"]
    assert [row["result"] for row in rows] == ["same"] * 4
    assert len(rows[0]["tokens"]) == COUNT


def test_a_host_that_differs_is_an_error_and_does_not_stop_the_others(arguments, capsys, monkeypatch):
    monkeypatch.setattr("tools.hosts.onnxruntime_function.tokens", lambda task: [0])
    assert main([*arguments, "--only", "onnxruntime_function", "genai_function"]) == 1
    printed = capsys.readouterr()
    assert "DIFFERENT" in printed.out
    assert printed.out.count("same") == 2
    assert "1 of 3 hosts" in printed.err


def test_a_model_needs_its_source(arguments, capsys):
    assert main(arguments[:1]) == 2
    assert "--source" in capsys.readouterr().err


def test_all_files_of_the_room_are_hosts():
    assert names()[0] == "onnxruntime_library"
    assert {"genai_function", "onnxruntime_function"} < set(names())
