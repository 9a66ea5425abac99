"""What a chat template may take: time, steps, and what it makes. Nobody has read it, and it comes with the model.

A template cannot change a list or a dictionary (Jinja's immutable sandbox), so the size of one is counted once. Size is
that of the value written out: a list that holds another one twice counts it twice, since text made of it does.
"""

import time
from collections.abc import Iterable, Iterator
from typing import Any

from jinja2.exceptions import SecurityError
from jinja2.utils import Namespace

__all__ = ["MAX_SIZE", "MAX_STEPS", "Budget"]

# Rounds of loops, calls of macros and items of lazy lists. The longest published templates take some hundred for a
# message.
MAX_STEPS = 100_000
# What a value may hold: characters of texts, items of lists, bits of a number; and numbers in calls, such as the width
# of a text. Longer prompts than this fit no context.
MAX_SIZE = 1_000_000
# Of all values together. A text that grows by a message at a time is made anew for each.
MAX_MADE = 256 * MAX_SIZE
# Of the processor, which other threads do not take from. Published templates take milliseconds.
MAX_SECONDS = 10.0
_TICKS = 32


class Budget:
    """What is left to one rendering. Each method raises SecurityError where that is too little."""

    def __init__(self) -> None:
        self._steps = self._ticks = self._made = 0
        self._began = time.thread_time()
        self._sizes: dict[int, tuple[object, int]] = {}  # the value beside its size, so that no other gets its id

    def tick(self) -> None:
        """Ask for the time, now and then: the clock is slower than what it measures."""
        self._ticks += 1
        if self._ticks % _TICKS == 0 and time.thread_time() - self._began > MAX_SECONDS:
            raise SecurityError(f"more than {MAX_SECONDS:g} seconds")

    def step(self) -> None:
        """Count a round of a loop, or what is like one."""
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise SecurityError(f"more than {MAX_STEPS} rounds of loops")
        self.tick()

    def refuse(self, size: float, what: str) -> None:
        """Refuse what would be larger than a value may be, before it is made."""
        if size > MAX_SIZE:
            raise SecurityError(f"{what} would make more than {MAX_SIZE} characters, items or bits")

    def made(self, value: Any) -> Any:
        """Count a new value, and return it; of a lazy one every item that is taken."""
        if isinstance(value, Iterator):
            return self.counted(value)
        if isinstance(value, str | bytes | list | tuple | dict | int):
            self.size(value)
            self._made += value.bit_length() if isinstance(value, int) else len(value)
            if self._made > MAX_MADE:
                raise SecurityError(f"more than {MAX_MADE} characters or items in all")
        return value

    def counted(self, values: Iterable[Any]) -> Iterator[Any]:
        """The values, each a step."""
        for value in values:
            self.step()
            yield value

    def concat(self, parts: Iterable[str]) -> str:
        """The text of these parts."""
        kept, size = [], 0
        for part in parts:
            size += len(part)
            if size > MAX_SIZE:
                raise SecurityError(f"a text of more than {MAX_SIZE} characters")
            kept.append(part)
        return self.made("".join(kept))

    def size(self, value: Any) -> int:
        """What a value holds, written out."""
        total = self._known(value)
        if total is None:
            waiting = [value]
            while waiting:
                top = waiting[-1]
                missing = [part for part in _parts(top) if self._known(part) is None]
                if missing:
                    if len(waiting) > MAX_SIZE or any(part is top for part in missing):
                        raise SecurityError("a value that holds itself")
                    waiting += missing
                    continue
                waiting.pop()
                total = 1 + sum(self._known(part) or 0 for part in _parts(top))
                self.refuse(total, "a list")
                self._sizes[id(top)] = (top, total)
        assert total is not None
        self.refuse(total, "a value")
        return total

    def _known(self, value: Any) -> int | None:
        if isinstance(value, str | bytes | range):
            return len(value)
        if isinstance(value, int):
            return value.bit_length()
        if isinstance(value, Namespace):  # as a text it would show all that it holds, and it can hold itself
            raise SecurityError("a namespace is no value")
        if not isinstance(value, list | tuple | dict):
            return 1  # a name of the template, whose values are counted where they are taken out
        known = self._sizes.get(id(value))
        return known[1] if known is not None else None


def _parts(value: Any) -> Iterable[Any]:
    return [*value, *value.values()] if isinstance(value, dict) else value
