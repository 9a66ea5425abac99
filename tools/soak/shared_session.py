"""One session of ONNX Runtime that all threads run at the same time, each with a cache of its own."""

from runtime_ext.decoder import Decoder
from tools.soak.memory import Memory
from tools.soak.task import Tally, Task
from tools.soak.threads import answer_all

NAME = "shared_session"


def run(task: Task, tally: Tally, memory: Memory) -> None:
    """Answer requests until there are no more."""
    first = Decoder.load(task.model, 1, task.library)
    memory.begin()
    answer_all(task, tally, lambda: Decoder(first.session, first.config))
