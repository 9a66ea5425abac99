"""The harness of faults in short: some kills, some signals, some damage. The long form is for a quiet hour."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the harness forks and waits as Linux does")

RUNS = {
    "kills": ("--only", "qbb-paper", "--kills", "4"),
    "crashes": ("--only", "convert to GPTQ", "--kills", "1", "--every", "3"),
    "interrupts": ("--only", "convert to GGUF", "--kills", "3"),
}
# All in one process, which no other test's threads are in: what it imports takes as long as a run.
PROGRAM = """
import json, sys
from tools.faults.__main__ import main

for words in json.loads(sys.argv[1]):
    print(main(words), flush=True)
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """For each kind its exit code, what it says, and its room."""
    rooms = {kind: tmp_path_factory.mktemp(kind) for kind in RUNS}
    commands = [[kind, *RUNS[kind], "--json", "--room", str(rooms[kind])] for kind in RUNS]
    words = [sys.executable, "-c", PROGRAM, json.dumps(commands)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2 * len(RUNS), done.stdout + done.stderr
    answers = zip(RUNS, lines[::2], lines[1::2], strict=True)
    return {kind: (int(code), json.loads(said), rooms[kind]) for kind, said, code in answers}


@pytest.mark.parametrize(
    ("kind", "least"),
    [("kills", 4), ("crashes", 1), ("interrupts", 0)],  # a signal may come when all is done
)
def test_a_few_faults_lose_nothing(ran, kind, least):
    code, found, room = ran[kind]
    assert code == 0, found
    assert [row["tried"] >= least for row in found["rows"]] == [True]
    assert not list(room.iterdir())
