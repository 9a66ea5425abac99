"""Every thread loads the model, answers a few requests, lets its session go, and loads again, while others run."""

from runtime_ext.decoder import Decoder
from tools.soak.memory import Memory
from tools.soak.task import Tally, Task
from tools.soak.threads import answer_all

NAME = "own_sessions"
ANSWERS = 4  # of a session


def run(task: Task, tally: Tally, memory: Memory) -> None:
    """Answer requests until there are no more."""
    memory.begin()

    def loaded() -> Decoder:
        tally.count("sessions")
        return Decoder.load(task.model, 1, task.library)

    answer_all(task, tally, loaded, answers=ANSWERS)
