"""What is wrong with the names that a command is given is said before PyTorch is loaded, which takes seconds."""

import json
import subprocess
import sys

import pytest

PROGRAM = """
import contextlib, io, json, sys
from calib.__main__ import main as calib
from exporter.__main__ import main as exporter

answers = []
for name, words in json.loads(sys.argv[1]):
    with contextlib.redirect_stderr(io.StringIO()) as said:
        code = {"calib": calib, "exporter": exporter}[name](words)
    answers.append([code, said.getvalue(), "torch" in sys.modules])
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("names")
    (folder / "empty").mkdir()
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text('{"model_type": "llama"}')
    return folder


@pytest.fixture(scope="module")
def answers(folder):
    """Of one process, which would keep PyTorch once it were loaded."""
    commands = [
        ("calib", ["missing", "out"]),
        ("calib", ["missing", "out", "--plan"]),
        ("calib", ["empty", "out"]),
        ("calib", ["model", "out", "--text", "missing.txt"]),
        ("exporter", ["missing", "out/model.onnx"]),
        ("exporter", ["empty", "out/model.onnx"]),
        ("exporter", ["model", "out/model.onnx", "--calibrate", "fast", "--text", "missing.txt"]),
    ]
    words = [sys.executable, "-c", PROGRAM, json.dumps(commands)]
    done = subprocess.run(words, cwd=folder, check=True, capture_output=True, text=True)
    return list(zip(commands, json.loads(done.stdout), strict=True))


def test_the_name_is_in_the_sentence(answers):
    for (_, words), (code, said, _) in answers:
        name = words[-1] if "--text" in words else words[0]
        assert code != 0
        assert said.startswith(f"error: {name}"), said
        assert len(said.splitlines()) == 1, said


def test_nothing_is_loaded_for_it(answers):
    assert [loaded for _, (_, _, loaded) in answers] == [False] * len(answers)
