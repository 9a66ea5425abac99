"""transformers.js in Node.js, on the export laid out as `--layout-for transformersjs` does it."""

import json
import shutil
from pathlib import Path

import onnx

from dualbinary.files.staging import scratch
from exporter.transformers_js import adapt_graph, folder, js_config, split_data
from tools.hosts.npm import EXAMPLES, installed, run_json
from tools.hosts.task import Task

__all__ = ["NAME", "tokens"]

NAME = "transformers.js"

_ANY_WIDTH = {4: 1}  # what the file is called means nothing


def tokens(task: Task) -> list[int]:
    """See Host."""
    host = installed(EXAMPLES / "transformersjs")
    ids = ",".join(map(str, task.prompt_ids))
    task.work.mkdir(parents=True, exist_ok=True)
    with scratch(task.work) as own:
        place = own / "model"  # a name with a dot in front is none for the library
        _lay_out(task.model, place)
        return run_json(host / "generate.js", place, "--ids", ids, "--count", task.count, "--json")["ids"]


def _lay_out(model: Path, place: Path) -> None:
    """The export of `model` in the folder `place`, under the names that transformers.js knows."""
    target = folder(_ANY_WIDTH, "fp32")
    proto = onnx.load(model, load_external_data=False)
    data = place / target.data
    data.parent.mkdir(parents=True)
    shutil.copyfile(model.with_name(f"{model.name}.data"), data)
    adapt_graph(proto)
    parts = split_data(proto, data)
    onnx.save(proto, place / target.model)
    config = json.loads((model.parent / "config.json").read_text(encoding="utf-8"))
    config["transformers.js_config"] = js_config(target, len(parts), "fp32")
    (place / "config.json").write_text(json.dumps(config), encoding="utf-8")
    shutil.copyfile(model.parent / "generation_config.json", place / "generation_config.json")
