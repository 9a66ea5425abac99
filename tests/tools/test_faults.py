"""The harness of faults in short: some kills, some signals, some damage. The long form is for a quiet hour."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the harness forks and waits as Linux does")


@pytest.mark.parametrize(
    ("kind", "only", "options", "least"),
    [
        ("kills", "qbb-paper", ["--kills", "4"], 4),
        ("crashes", "convert to GPTQ", ["--kills", "1", "--every", "3"], 1),
        ("interrupts", "convert to GGUF", ["--kills", "3"], 0),  # a signal may come when all is done
    ],
)
def test_a_few_faults_lose_nothing(kind, only, options, least, tmp_path):
    command = [sys.executable, "-m", "tools.faults", kind, "--only", only, *options, "--json", "--room", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert [row["tried"] >= least for row in found["rows"]] == [True]
    assert not list(tmp_path.iterdir())
