"""The default export of the real model, which takes half a minute: made once, by the command of the tutorial."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from examples import smollm2
from tests.support.made_once import made_once
from tests.support.measures import watched

__all__ = ["COMMAND", "RealExport", "environment", "real_export"]

ROOT = Path(__file__).resolve().parents[2]
COMMAND = "python -m exporter models/SmolLM2-135M-Instruct out/model.onnx"
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
    try:
        output, peak = watched(COMMAND.split(), cwd=directory, env=environment(), stderr=subprocess.STDOUT)
    except subprocess.CalledProcessError as error:
        pytest.fail(f"{COMMAND}\n{error.output}")
    record = {"output": output, "peak_rss_bytes": peak}
    (directory / _RECORD).write_text(json.dumps(record), encoding="utf-8")
