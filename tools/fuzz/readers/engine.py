"""Running a target: on its seeds and what is made of them, until the time is over."""

import contextlib
import random
import signal
import sys
import time
import traceback
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tools.fuzz.readers import Target
from tools.fuzz.readers.mutate import mutated

__all__ = ["Crash", "Outcome", "run_target"]

_SECONDS = 60  # for one input, on any machine; the slowest takes a tenth of a second
_MEMORY = 4 << 30  # bytes of addresses that may be taken beyond those at the beginning
_KEPT = 100  # crashes; a reader that fails always need not be told a million times


class _TooSlowError(BaseException):
    """One input took too long. No reader swallows it."""


@dataclass(frozen=True)
class Crash:
    """An input, and what came out in place of an error of ours."""

    input: bytes
    error: str

    def to_dict(self) -> dict[str, str]:
        """As an object of --json."""
        return {"input": self.input.hex(), "error": self.error}


@dataclass
class Outcome:
    """The outcome of a run. Crashes that were raised at one place are one."""

    target: str
    executions: int = 0
    seconds: float = 0.0
    crashes: dict[str, Crash] = field(default_factory=dict[str, Crash])

    def to_dict(self) -> dict[str, Any]:
        """As an object of --json."""
        crashes = [crash.to_dict() for crash in self.crashes.values()]
        facts = {"target": self.target, "executions": self.executions, "seconds": round(self.seconds, 1)}
        return facts | {"crashes": crashes}


def run_target(target: Target, *, seconds: float = 0.0, inputs: int = 0, seed: int = 0) -> Outcome:
    """Feed `target` its seeds, then mutations of them, for so many seconds or so many `inputs`, whichever is more.

    Equal seeds give equal inputs. An input that does not crash may become a parent of later ones.
    """
    outcome, choose = Outcome(target.NAME), random.Random(seed)
    parents = list(target.seeds())
    target.try_input(parents[0])  # without limits: what is imported on the way takes its time and memory
    began = time.monotonic()
    with _limits():
        for data in parents:
            _try(target, data, outcome)
        count = 0
        while count < inputs or time.monotonic() - began < seconds:
            count += 1
            data = mutated(choose.choice(parents), choose)
            if _try(target, data, outcome) and choose.random() < 0.02 and len(parents) < 500:
                parents.append(data)
    outcome.seconds = time.monotonic() - began
    return outcome


def _try(target: Target, data: bytes, outcome: Outcome) -> bool:
    outcome.executions += 1
    try:
        with _alarm():
            target.try_input(data)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a panic of a library in Rust is no Exception
        place = _place(error)
        if len(outcome.crashes) < _KEPT:
            outcome.crashes.setdefault(place, Crash(data, f"{type(error).__name__}: {str(error)[:200]} ({place})"))
        return False
    return True


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "site-packages" not in frame.filename and "/tools/fuzz/" not in frame.filename]
    last = (ours or frames)[-1]
    return f"{type(error).__name__} at {'/'.join(last.filename.split('/')[-3:])}:{last.lineno}"


@contextlib.contextmanager
def _alarm() -> Iterator[None]:
    if not hasattr(signal, "setitimer"):  # Windows
        yield
        return

    def too_slow(number: int, frame: types.FrameType | None) -> None:
        raise _TooSlowError(f"one input took more than {_SECONDS} s")

    before = signal.signal(signal.SIGALRM, too_slow)
    signal.setitimer(signal.ITIMER_REAL, _SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _limits() -> Iterator[None]:
    """Less memory, so that what asks for a terabyte fails, and does not take the machine with it."""
    if not sys.platform.startswith("linux"):
        yield
        return
    import resource  # not on Windows

    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", encoding="ascii") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + _MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
