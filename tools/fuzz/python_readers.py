"""Targets in Python: modules of readers/, each run by `python -m tools.fuzz.readers NAME` in a process of its own."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

from dualbinary import DualBinaryError
from tools.fuzz.outcome import Crash, Outcome

__all__ = ["run", "targets"]

ROOT = Path(__file__).resolve().parents[2]
READERS = Path(__file__).parent / "readers"
NAMED = "NAME = "  # what a module of a target says of itself
NAMED_TYPED = "NAME: "


def targets() -> list[str]:
    """Names of the modules that are targets; none where the room is not there."""
    found = []
    for path in READERS.glob("[!_]*.py"):
        if any(line.startswith((NAMED, NAMED_TYPED)) for line in path.read_text(encoding="utf-8").splitlines()):
            found.append(path.stem)
    return sorted(found)


def run(target: str, seconds: int, seed: int = 0) -> Outcome:
    """Run one target for so many seconds. Raises DualBinaryError where its process does not answer."""
    command = ["-m", "tools.fuzz.readers", target, "--seconds", str(seconds), "--seed", str(seed), "--json"]
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, errors="replace", check=False
    )
    try:
        answer = json.loads(done.stdout)
        # Equal seeds make equal inputs, so the same command finds it again; the bytes are those of a test for it.
        again = shlex.join(["python", *command])
        crashes = tuple(Crash(f"{found['error']} (input {found['input']})", again) for found in answer["crashes"])
        return Outcome(answer["target"], int(answer["executions"]), float(answer["seconds"]), crashes)
    except (ValueError, KeyError, TypeError) as error:
        words = done.stderr.strip()[-2000:]
        raise DualBinaryError(f"{target}: ended with {done.returncode} and without an answer: {words}") from error
