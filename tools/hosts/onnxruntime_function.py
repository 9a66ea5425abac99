"""ONNX Runtime from Python as it comes: the functions inside the model run."""

from tools.hosts.onnxruntime_library import greedy
from tools.hosts.task import Task

__all__ = ["NAME", "tokens"]

NAME = "ONNX Runtime, without it"


def tokens(task: Task) -> list[int]:
    """Return the new tokens."""
    return greedy(task, library=False)
