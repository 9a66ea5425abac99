"""Runs of `python -m calib`, each followed by `python -m calib eval`, whose results are kept in a directory.

Used by calibration_ablation and sequences_figure. A run that was made before is read back, whole or not at all, so that
a comparison that was stopped continues.
"""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from dualbinary import DualBinaryError
from dualbinary.files.atomic import write_text

__all__ = ["calibrated", "difference", "file_name", "run_calib"]


def calibrated(name: str, model_dir: Path, work_dir: Path, arguments: list[str], test: Path) -> dict[str, Any]:
    """Measure the checkpoint `name` in `work_dir`, which `python -m calib` makes with `arguments` if it is missing.

    Returns the figures of `python -m calib eval` on `test`, "full_precision", the perplexity of the model itself, and
    "seconds" of calibration. Raises DualBinaryError where a command fails.
    """
    out = work_dir / file_name(name)
    stored = out.with_name(out.name + ".json")
    if stored.is_file():
        return json.loads(stored.read_text())
    if not out.is_dir():
        run_calib(str(model_dir), str(out), *arguments)
    found = run_calib("eval", str(model_dir), str(out), "--text", str(test), "--dtype", "auto", "--json")
    full, student = json.loads(found)["models"]
    record = json.loads((out / "calibration.json").read_text())
    result = {**student, "full_precision": full["perplexity"], "seconds": sum(record["seconds"].values())}
    write_text(stored, json.dumps(result))
    return result


def difference(nll: list[float], base: list[float]) -> tuple[float, float]:
    """Return the mean of nll - base over windows, and its standard error."""
    changes = [mine - theirs for mine, theirs in zip(nll, base, strict=True)]
    return mean(changes), stdev(changes) / len(changes) ** 0.5


def file_name(name: str) -> str:
    """Turn the name of a run into that of its files."""
    return "-".join(re.findall(r"[\w.]+", name))


def run_calib(*arguments: str) -> str:
    """Run `python -m calib arguments`, printed first; return its output. Raises DualBinaryError where it fails."""
    command = [sys.executable, "-m", "calib", *arguments]
    print("$", shlex.join(["python", *command[1:]]), file=sys.stderr, flush=True)
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise DualBinaryError(f"{shlex.join(command[1:])}: ended with exit code {done.returncode}")
    return done.stdout
