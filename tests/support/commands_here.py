"""Commands that export or import in a process of their own, in tests: both run in this one, which has imported them."""

import contextlib
import io
import subprocess
import sys
from typing import Any

import pytest

from exporter.__main__ import main as exporter
from importer.__main__ import main as importer

MAINS = {"exporter": exporter, "importer": importer}


def run_here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let `python -m exporter` and `importer` run here, others as before; return the names of those that ran."""
    start, seen = subprocess.run, []

    def run(command: list[str], *args: Any, **kwargs: Any) -> subprocess.CompletedProcess[str]:
        name = command[2] if list(command[:2]) == [sys.executable, "-m"] else ""
        if name not in MAINS:
            return start(command, *args, **kwargs)
        seen.append(name)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            code = MAINS[name](command[3:])
        return subprocess.CompletedProcess(command, code, printed.getvalue(), "")

    monkeypatch.setattr(subprocess, "run", run)
    return seen
