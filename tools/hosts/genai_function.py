"""onnxruntime-genai from Python as it comes: the functions inside the model run."""

from tools.hosts.genai_library import greedy
from tools.hosts.task import Task

__all__ = ["NAME", "tokens"]

NAME = "onnxruntime-genai, without it"


def tokens(task: Task) -> list[int]:
    """Return the new tokens."""
    return greedy(task, library=False)
