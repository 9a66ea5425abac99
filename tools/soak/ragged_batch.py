"""Sequences of different lengths in the slots of one session; they come, go, and are canceled at any moment."""

import time
from collections.abc import Callable, Iterator

import numpy as np

from dualbinary import DualBinaryError
from runtime_ext.batch_decoder import load_batch_decoder
from runtime_ext.batcher import Batcher, Job
from tools.soak.memory import Memory
from tools.soak.task import Tally, Task

NAME = "ragged_batch"
SLOTS = 4
CANCELED = 0.1  # share of the jobs


def run(task: Task, tally: Tally, memory: Memory) -> None:
    """Answer requests until there are no more: as many at the same time as there are threads, in SLOTS slots."""
    batcher = Batcher(load_batch_decoder(task.model, SLOTS, task.room, task.threads, task.library))
    memory.begin()
    random = np.random.default_rng(0)
    places = tally.places(len(task.requests))
    doomed: list[tuple[Job, int]] = []  # jobs to cancel, and at which step
    step = 0

    def add() -> None:
        job = _job(task, tally, places, add)
        if job is None:
            return
        batcher.add(job)
        if random.random() < CANCELED:
            doomed.append((job, step + int(random.integers(0, 8))))

    for _ in range(task.threads):
        add()
    while batcher.busy:
        batcher.advance()
        step += 1
        due = [job for job, when in doomed if when <= step]
        doomed = [entry for entry in doomed if entry[1] > step]
        for job in due:
            batcher.cancel(job)


def _job(task: Task, tally: Tally, places: Iterator[int], again: Callable[[], None]) -> Job | None:
    place = next(places, None)
    if place is None:
        return None
    request, tokens, begin = task.requests[place], list[int](), time.perf_counter()

    def ended(reason: str | DualBinaryError) -> None:
        if isinstance(reason, DualBinaryError):
            tally.fail(str(reason))
        elif reason == "canceled":
            tally.count("canceled")
        else:
            kept = tuple(tokens)
            tally.note(len(kept), time.perf_counter() - begin, right=kept == task.expected[place])
        again()

    def take(token: int, _: object) -> bool:
        tokens.append(token)
        return False

    return Job(request.prompt, request.count, request.sampler(), take, ended)
