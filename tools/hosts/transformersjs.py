"""transformers.js in Node.js, on an export that is laid out for it."""

import subprocess
import sys

from tools.hosts.npm import EXAMPLES, installed, run_json
from tools.hosts.task import Task

__all__ = ["NAME", "tokens"]

NAME = "transformers.js"


def tokens(task: Task) -> list[int]:
    """See Host. Exports the source again, with the default options, where `work` has no such folder."""
    host = installed(EXAMPLES / "transformersjs")
    folder = task.work / "transformersjs"
    if not (folder / "config.json").is_file():
        words = [task.source, folder / "model.onnx", "--layout-for", "transformersjs", "--force", "--quiet"]
        subprocess.run([sys.executable, "-m", "exporter", *map(str, words)], check=True, stdout=sys.stderr)
    ids = ",".join(map(str, task.prompt_ids))
    return run_json(host / "generate.js", folder, "--ids", ids, "--count", task.count, "--json")["ids"]
