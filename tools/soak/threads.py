"""Threads that answer requests, each by a decoder of its own."""

import threading
import time
from collections.abc import Callable, Iterator

from runtime_ext.decoder import Decoder
from tools.soak.task import Tally, Task, answer

__all__ = ["answer_all", "in_threads"]


def in_threads(task: Task, tally: Tally, work: Callable[[Iterator[int]], None], count: int) -> None:
    """Run `work` in `task.threads` threads, each with places among `count` until there are no more."""

    def guarded() -> None:
        try:
            work(tally.places(count))
        except Exception as error:  # a thread that ends must not end unseen
            tally.fail(f"{type(error).__name__}: {error}")

    workers = [threading.Thread(target=guarded) for _ in range(task.threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def answer_all(task: Task, tally: Tally, make: Callable[[], Decoder], answers: int | None = None) -> None:
    """Let the threads answer the task's requests; a decoder gives `answers`, then a new one comes."""

    def work(places: Iterator[int]) -> None:
        decoder, left = None, 0
        for place in places:
            if decoder is None or left == 0:
                decoder = None  # the old one goes before the new one comes
                decoder, left = make(), answers or -1
            begin = time.perf_counter()
            tokens = answer(decoder, task.requests[place])
            left -= 1
            tally.note(len(tokens), time.perf_counter() - begin, right=tokens == task.expected[place])

    in_threads(task, tally, work, len(task.requests))
