"""What every load answers: the same few requests again and again, each with the tokens that it gets alone."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from runtime_ext.decoder import Decoder
from runtime_ext.generate import generate
from runtime_ext.generation import Generation
from runtime_ext.sampling import Sampler
from tools.soak.memory import Memory

__all__ = ["Load", "Request", "Tally", "Task", "answer", "make_requests"]

KEPT_ERRORS = 20


@dataclass(frozen=True)
class Request:
    """Token ids to continue by `count` tokens at most; every second one is drawn, by a seed of its own."""

    prompt: tuple[int, ...]
    count: int
    temperature: float
    seed: int

    def sampler(self) -> Sampler:
        """A sampler that draws from the beginning."""
        return Sampler(temperature=self.temperature, seed=self.seed)


@dataclass(frozen=True)
class Task:
    """What a load is given.

    Attributes:
        model: the exported file.
        threads: threads of Python, or clients, that ask at the same time; each session has one thread of its own.
        context: tokens that the longest sequences have, prompt and answer together.
        room: tokens that all others have room for, where room is taken beforehand.
        library: run the operator by the library.
        requests: prompts of different lengths.
        expected: the tokens that each gets in one session that nothing else uses.
    """

    model: Path
    threads: int
    context: int
    room: int
    library: bool
    requests: tuple[Request, ...]
    expected: tuple[tuple[int, ...], ...]


class Load(Protocol):
    """A file of this room."""

    NAME: str

    @staticmethod
    def run(task: Task, tally: "Tally", memory: Memory) -> None:
        """Answer requests until `tally` hands out no more; let `memory` begin when what is used throughout is there."""
        ...


@dataclass
class Tally:
    """Requests handed out until time or number is used up, and what came of them. For any number of threads."""

    end: float  # on the clock of time.monotonic
    most: int | None
    seconds: list[float] = field(default_factory=list)
    tokens: int = 0
    wrong: int = 0
    errors: list[str] = field(default_factory=list)
    other: dict[str, int] = field(default_factory=dict)
    _given: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def places(self, count: int) -> Iterator[int]:
        """Places of requests among `count`, one after another, until there is no more time."""
        while time.monotonic() < self.end:
            with self._lock:
                if self._given == self.most:
                    return
                place = self._given % count
                self._given += 1
            yield place

    def note(self, tokens: int, seconds: float, *, right: bool) -> None:
        """Count an answer of so many tokens, and whether it was the expected one."""
        with self._lock:
            self.seconds.append(seconds)
            self.tokens += tokens
            self.wrong += not right

    def fail(self, error: str) -> None:
        """Count an error; the first of them are kept."""
        with self._lock:
            self.other["errors"] = self.other.get("errors", 0) + 1
            if len(self.errors) < KEPT_ERRORS:
                self.errors.append(error)

    def count(self, name: str) -> None:
        """Count something else by its name."""
        with self._lock:
            self.other[name] = self.other.get(name, 0) + 1


def make_requests(vocabulary: int, room: int, count: int, seed: int) -> tuple[Request, ...]:
    """`count` requests of random tokens, from a single one to three quarters of `room`, at most 200."""
    random = np.random.default_rng(seed)
    longest = max(1, min(200, room * 3 // 4))
    made = []
    for place in range(count):
        length = int(random.integers(1, longest + 1))
        prompt = tuple(int(token) for token in random.integers(0, vocabulary, length))
        made.append(Request(prompt, int(random.integers(4, 33)), 0.0 if place % 2 else 1.0, place))
    return tuple(made)


def answer(decoder: Decoder, request: Request) -> tuple[int, ...]:
    """The tokens of a request, from a decoder that nothing else uses meanwhile."""
    return tuple(generate(decoder, request.prompt, request.count, request.sampler(), Generation([])))
