"""The default export of the real model, which takes half a minute: made once, by the command of the tutorial."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from examples import smollm2
from tests.support.made_once import made_once

__all__ = ["COMMAND", "RealExport", "environment", "real_export"]

ROOT = Path(__file__).resolve().parents[2]
COMMAND = "python -m exporter models/SmolLM2-135M-Instruct out/model.onnx"
_PERIOD = 0.01  # seconds between two looks at the command's memory
_RECORD = "record.json"


@dataclass(frozen=True)
class RealExport:
    """The exported file, which is not to be changed; both streams of the command, and its peak memory."""

    path: Path
    output: str
    peak_rss_bytes: int


def real_export(factory: pytest.TempPathFactory) -> RealExport:
    """The export, not checked."""
    directory = made_once(factory, "real_export", _make)
    record = json.loads((directory / _RECORD).read_text(encoding="utf-8"))
    return RealExport(directory / "out" / "model.onnx", **record)


def environment() -> dict[str, str]:
    """That of a shell in which commands of the pages run: `python` is this one, and finds the checkout."""
    return os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
    }


def _make(directory: Path) -> None:
    (directory / "models").symlink_to(smollm2.prepare().parent)
    said = directory / "said.txt"
    with said.open("wb") as sink:
        process = subprocess.Popen(
            COMMAND.split(), cwd=directory, env=environment(), stdout=sink, stderr=subprocess.STDOUT
        )
        peak = 0
        while process.poll() is None:
            peak = _peak(process.pid) or peak
            time.sleep(_PERIOD)
    output = said.read_text(encoding="utf-8")
    assert process.returncode == 0, f"{COMMAND}\n{output}"
    record = {"output": output, "peak_rss_bytes": peak}
    (directory / _RECORD).write_text(json.dumps(record), encoding="utf-8")


def _peak(process: int) -> int:
    """Peak memory of a process since its exec, in bytes; 0 where it has ended."""
    status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 if "VmHWM:" in status else 0
