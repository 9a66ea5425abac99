"""optimum-onnx: ORTModelForCausalLM on the exported folder, in an environment of its own.

It needs an older transformers than this project, so its packages (constraints-optimum.txt) go into a virtual
environment in the task's work directory: two minutes and 1.5 GB, once. The library beside the model is registered where
there is one.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import runtime_ext
from dualbinary import DualBinaryError
from tools.environments import Environment
from tools.hosts.task import NotHereError, Task

__all__ = ["NAME", "tokens"]

NAME = "optimum-onnx, ORTModelForCausalLM"

CONSTRAINTS = Path(__file__).with_name("constraints-optimum.txt")
PACKAGES = ("optimum-onnx", "optimum", "transformers", "torch", "onnxruntime")

_SCRIPT = """
import json, sys
import onnxruntime, torch
from optimum.onnxruntime import ORTModelForCausalLM

folder, name, library, ids, count = json.loads(sys.argv[1])
options = onnxruntime.SessionOptions()
if library:
    options.register_custom_ops_library(library)
model = ORTModelForCausalLM.from_pretrained(folder, file_name=name, session_options=options)
model.generation_config.eos_token_id = None
prompt = torch.tensor([ids])
found = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=count, do_sample=False)
print(json.dumps(found[0, len(ids):].tolist()))
"""


def tokens(task: Task) -> list[int]:
    """See Host. Raises NotHereError where the environment cannot be made."""
    python = _environment(task.work / "optimum")
    library = task.model.parent / runtime_ext.library_path().name
    given = [str(task.model.parent), task.model.name, str(library) if library.is_file() else None]
    argument = json.dumps([*given, task.prompt_ids, task.count])
    done = subprocess.run(
        [python, "-c", _SCRIPT, argument],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""},
    )
    if done.returncode:
        raise RuntimeError(f"optimum-onnx failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _environment(folder: Path) -> Path:
    try:
        return Environment(folder, PACKAGES, CONSTRAINTS).python()
    except DualBinaryError as error:
        raise NotHereError(f"its packages could not be installed; the package index is needed once: {error}") from error


if __name__ == "__main__":
    model, source, *ids = sys.argv[1:]
    print(tokens(Task(Path(model), Path(source), Path("out/hosts"), tuple(map(int, ids)), 32)))
