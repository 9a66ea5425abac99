"""What running a fuzz target gave."""

from dataclasses import dataclass

__all__ = ["Crash", "Outcome"]


@dataclass(frozen=True)
class Crash:
    """An input that found a defect: what happened, and the command that does it again."""

    what: str
    reproduce: str


@dataclass(frozen=True)
class Outcome:
    """Of one target: how many inputs it ran, in how many seconds, and what it found."""

    target: str
    executions: int
    seconds: float
    crashes: tuple[Crash, ...] = ()
