"""OpenVINO on the CPU, which takes no functions: the weights once more as nodes that it knows (`--op matmulnbits`)."""

import importlib.util
from pathlib import Path

from dualbinary import InputError
from exporter.options import ExportOptions
from exporter.pipeline import export
from tools.hosts.task import NotHereError, Task

__all__ = ["NAME", "tokens"]

NAME = "OpenVINO, --op matmulnbits"


def tokens(task: Task) -> list[int]:
    """See Host. Raises NotHereError without OpenVINO, and for weights that these nodes do not hold."""
    if importlib.util.find_spec("openvino") is None:
        raise NotHereError("pip install openvino")
    from examples.openvino_generate import continued

    return continued(_stock(task), task.prompt_ids, task.count)


def _stock(task: Task) -> Path:
    """The export anew, in the work directory; the same weights, so the same tokens."""
    out = task.work / "openvino" / "model.onnx"
    try:
        export(task.source, out, ExportOptions(op="matmulnbits"), force=True)
    except InputError as error:
        raise NotHereError(str(error)) from error
    return out
