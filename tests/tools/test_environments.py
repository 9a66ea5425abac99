"""Environments of other packages: made once, made anew where what they are of changes, and named where pip fails."""

import subprocess
import sys
from pathlib import Path

import pytest

from dualbinary import DualBinaryError
from tools.environments import Environment
from tools.next import first_failure, pinned


@pytest.fixture
def said(monkeypatch):
    """Commands that would run: an environment appears, pip installs nothing."""
    commands = []

    def called(command, **_):
        commands.append([str(word) for word in command])
        if "venv" in commands[-1]:
            (Path(command[-1]) / "bin").mkdir(parents=True, exist_ok=True)
        failed = "missing" in commands[-1]
        text = "noise\nERROR: No matching distribution found for missing\n" if failed else ""
        return subprocess.CompletedProcess(command, int(failed), "", text)

    monkeypatch.setattr(subprocess, "run", called)
    return commands


def test_an_environment_is_made_once_and_anew_where_its_pins_change(tmp_path, said):
    pins = tmp_path / "pins.txt"
    pins.write_text("numpy==1\n")
    environment = Environment(tmp_path / "made", ("numpy",), pins)
    assert environment.python() == environment.python() == tmp_path / "made" / "bin" / "python"
    assert len(said) == 2
    assert said[0][:3] == [sys.executable, "-m", "venv"]
    assert said[1][-3:] == ["-c", str(pins), "numpy"]
    pins.write_text("numpy==2\n")
    environment.python()
    assert len(said) == 4


def test_one_that_could_not_be_installed_says_why_and_is_tried_again(tmp_path, said):
    environment = Environment(tmp_path / "made", ("missing",))
    for _ in range(2):
        with pytest.raises(DualBinaryError, match="failed: No matching distribution found for missing"):
            environment.python()
    assert len(said) == 4


def test_first_failures_and_pins_are_found():
    assert pinned("# of all\na==1.0\nb-c==2\n") == {"a": "1.0", "b-c": "2"}
    assert first_failure("x\nE   boom\nFAILED tests/a.py::b - boom\n1 failed") == "FAILED tests/a.py::b - boom"
    assert first_failure("") == "no output"
