"""The wheel of this machine in an environment of its own, with what pip brings for it and nothing of the checkout."""

import shutil
import subprocess
from pathlib import Path

from dualbinary.files.systems import this_system
from tools.environments import Environment
from tools.hosts.task import NotHereError, Task
from tools.wheels.environment import ROOT

__all__ = ["NAME", "PROGRAM", "fresh_environment", "tokens"]

NAME = "wheel in a fresh environment"

PROGRAM = """\
import sys
from pathlib import Path
from runtime_ext.decoder import Decoder
model, count, *ids = sys.argv[1:]
tokens = [int(token) for token in ids]
decoder = Decoder.load(Path(model))
decoder.start(len(tokens) + int(count))
logits = decoder.step(tokens)
for i in range(int(count)):
    print(token := int(logits.argmax()))
    if i + 1 < int(count):
        logits = decoder.step([token])
"""
"""Prints greedy tokens: `python -c PROGRAM OUT.onnx COUNT ID...`."""


def tokens(task: Task) -> list[int]:
    """Return the `count` new token ids. Raises NotHereError where no wheel is in dist/."""
    system = this_system()
    wheels = [
        path for path in (ROOT / "dist").glob("dualbinary-*.whl") if system and system.fits(path.stem.split("-")[-1])
    ]
    if not wheels:
        raise NotHereError(f"dist has no wheel for {system.name if system else 'this system'}: `make wheels` builds it")
    python = fresh_environment(max(wheels, key=lambda path: path.stat().st_mtime), task.work / "wheel")
    words = [python, "-I", "-c", PROGRAM, task.model.resolve(), str(task.count), *map(str, task.prompt_ids)]
    answer = subprocess.run(words, capture_output=True, text=True, check=True, cwd=python.parent)
    return [int(word) for word in answer.stdout.split()]


def fresh_environment(wheel: Path, folder: Path) -> Path:
    """The Python of an environment in `folder` with the wheel, and the pinned versions of what it depends on."""
    shutil.rmtree(folder, ignore_errors=True)  # a wheel of the same name may be another one
    return Environment(folder, (str(wheel),), ROOT / "constraints.txt").python()
