"""Verbs that pages list: the Makefile's in CONTRIBUTING.md, no file's names among them; the command's in README.md."""

import re
from pathlib import Path

from dualbinary.cli.verbs import VERBS as COMMANDS

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
TABLE = [
    line for line in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines() if line.startswith("| `make")
]
VERBS = set(re.findall(r"(?m)^([a-z-]+):.*## ", MAKEFILE)) - {"help"}


def test_verbs_are_phony():
    phony = re.findall(r"(?m)^\.PHONY: (.*)", MAKEFILE)
    assert VERBS - set(phony[0].split()) == set()


def test_verbs_are_in_the_table():
    named = set(re.findall(r"`make ([a-z-]+)`", "\n".join(TABLE)))
    assert VERBS - named == set()
    assert named - VERBS == set()


def test_the_table_says_how_many_processes_test():
    workers = re.search(r"(?m)^TEST_WORKERS \?= (\d+)$", MAKEFILE)
    assert workers
    assert f"`TEST_WORKERS={workers[1]}`" in "\n".join(TABLE)


def test_the_readme_has_a_row_for_each_command():
    rows = re.findall(r"(?m)^\| `dualbinary ([a-z]+) ", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert sorted(rows) == sorted(COMMANDS)
