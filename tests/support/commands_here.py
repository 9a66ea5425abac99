"""Commands that start calib, exporter or importer: in tests these run in this process, which has imported them."""

import contextlib
import io
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from calib.__main__ import main as calib
from exporter.__main__ import main as exporter
from importer.__main__ import main as importer

MAINS = {"calib": calib, "exporter": exporter, "importer": importer}


def run_here(monkeypatch: pytest.MonkeyPatch, more: Sequence[str] = ()) -> list[str]:
    """Let the commands of MAINS run here, others as before; return the names of those that ran.

    `more` are arguments that each gets as well; they are looked at when it runs.
    """
    start, seen = subprocess.run, []

    def run(command: list[str], *args: Any, **kwargs: Any) -> subprocess.CompletedProcess[str]:
        name = command[2] if list(command[:2]) == [sys.executable, "-m"] else ""
        if name not in MAINS:
            return start(command, *args, **kwargs)
        seen.append(name)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            try:
                code = MAINS[name]([*command[3:], *more])
            except SystemExit as end:  # of wrong options
                code = int(end.code or 0)
        return subprocess.CompletedProcess(command, code, printed.getvalue(), "")

    monkeypatch.setattr(subprocess, "run", run)
    return seen
