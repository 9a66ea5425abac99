"""The tutorial, run as a reader runs it: each command of the page in order, its output held against what is printed."""

import re
import subprocess
from pathlib import Path

import pytest

from examples import smollm2
from tests.support import real_export

pytestmark = pytest.mark.real_model

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tutorial.md"
FENCE = re.compile(r"(?ms)^```(\w+)\n(.*?)^```$")
# What differs from run to run: times, speeds, memory; and how many tokens were guessed, which follows from times.
MEASURED = re.compile(r" *\d+(\.\d+)?(?= (s|tokens/s)\b)|(?<=peak RSS) *\d+")
GUESSES = re.compile(r", \d+ of \d+ guesses right")


def test_the_tutorial_prints_what_it_says(tmp_path, tmp_path_factory):
    (tmp_path / "models").symlink_to(smollm2.prepare().parent)
    exported = real_export.real_export(tmp_path_factory)  # by the page's own command, for other tests too
    commands = 0
    for language, text in FENCE.findall(PAGE.read_text(encoding="utf-8")):
        if language == "python":
            name = text.splitlines()[0].removeprefix("# ")
            (tmp_path / name).write_text(text, encoding="utf-8")
        if language == "console":
            for command, output in re.findall(r"(?m)^\$ (.*)\n((?:(?!\$ ).*\n)*)", text):
                commands += 1
                if command == real_export.COMMAND:
                    (tmp_path / "out").symlink_to(exported.path.parent)
                    found = exported.output
                else:
                    found = run(command, tmp_path)
                assert comparable(found) == comparable(output), command

    assert commands > 10


def run(command: str, folder: Path) -> str:
    """Both streams of a shell command, which must succeed, in the order in which a terminal shows them."""
    done = subprocess.run(
        command, shell=True, cwd=folder, env=real_export.environment(), check=False, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}"
    return done.stdout


def comparable(output: str) -> str:
    return MEASURED.sub("#", GUESSES.sub("", output.strip()))
