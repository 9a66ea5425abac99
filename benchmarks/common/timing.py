"""Timing of several pieces of work in turn, round after round, so that they can be compared.

A busy neighbor, a clock that drops, a machine that warms up: each affects all alike, and changes a ratio less than
either of the two times. So a ratio here is one of medians of interleaved rounds, never of the best times.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import TypeVar

__all__ = ["Clock", "Ratio", "Summary", "in_turn", "interleave", "ratio", "summarize", "wall_clock"]

T = TypeVar("T")

Clock = Callable[[Callable[[], object]], float]
"""Function that calls a piece of work once and returns the seconds that it took."""

# Threads of a session keep spinning for a millisecond or two after a run. On a machine without a spare core they take
# time from whatever is measured next.
_PAUSE = 0.005
_SHORT = 0.05  # seconds; work that takes longer gains nothing from a repetition before it is timed


@dataclass(frozen=True)
class Summary:
    """Times in seconds: median and best of the rounds, and the middle half of them as a share of the median."""

    median: float
    best: float
    spread: float


@dataclass(frozen=True)
class Ratio:
    """Factor by which the other is slower: of the medians, and the quartiles of the rounds' ratios."""

    median: float
    low: float
    high: float


def wall_clock(work: Callable[[], object]) -> float:
    """Time work that is done when its call returns."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def interleave(
    works: Mapping[str, Callable[[], object]], rounds: int, seconds: float, clock: Clock = wall_clock
) -> dict[str, list[float]]:
    """Time every work in every round: the median of its repetitions, which fill `seconds`; at least one.

    Each round begins with another work, so that none always follows the same one. The first round is not counted.
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    for count in range(rounds + 1):
        for name in in_turn(list(works), count):
            time.sleep(_PAUSE)
            times[name].append(_repeat(works[name], seconds, times[name][-1:], clock))
    return {name: each[1:] for name, each in times.items()}


def in_turn(items: Sequence[T], count: int) -> list[T]:
    """`items` in the order of round `count`: each round begins with another one, so none always follows the same."""
    first = count % len(items)
    return [*items[first:], *items[:first]]


def _repeat(work: Callable[[], object], seconds: float, before: list[float], clock: Clock) -> float:
    if not before or before[0] < _SHORT:
        work()
    found: list[float] = []
    end = time.perf_counter() + seconds
    while not found or time.perf_counter() < end:
        found.append(clock(work))
    return median(found)


def summarize(times: list[float]) -> Summary:
    """Summarize the times of some rounds. Raises ValueError if there are none."""
    middle = median(times)
    low, high = _quartiles(times)
    return Summary(middle, min(times), (high - low) / middle)


def ratio(other: list[float], own: list[float]) -> Ratio:
    """Divide the times of `other` by those of `own`, both of the same rounds."""
    low, high = _quartiles([a / b for a, b in zip(other, own, strict=True)])
    return Ratio(median(other) / median(own), low, high)


def _quartiles(values: list[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = quantiles(values, n=4, method="inclusive")
    return low, high
