"""ONNX Runtime from Python with the operator's library: what all others are held against."""

from runtime_ext.decoder import Decoder
from runtime_ext.generate import Generation, generate
from runtime_ext.sampling import Sampler
from tools.hosts.task import Task

__all__ = ["NAME", "greedy", "tokens"]

NAME = "ONNX Runtime, with the library"


def greedy(task: Task, *, library: bool) -> list[int]:
    """Continue by the decoder of this project, with the library or by the functions inside the model."""
    decoder = Decoder.load(task.model, library=library)
    return list(generate(decoder, list(task.prompt_ids), task.count, Sampler(), Generation([])))


def tokens(task: Task) -> list[int]:
    """Return the new tokens."""
    return greedy(task, library=True)
