"""What a guess is, and what makes guesses."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from runtime_ext.sampling import Sampler

__all__ = ["Guess", "Guesser"]


@dataclass(frozen=True)
class Guess:
    """Tokens that may come next.

    Attributes:
        tokens: in their order; none where there is nothing to go by.
        kind: guesses of one kind are right about equally often.
    """

    tokens: list[int]
    kind: int = 0


class Guesser(Protocol):
    """Guesses the tokens of one sequence at a time."""

    longest: int
    """Tokens of a guess at most; checking one takes a run of one token more."""

    def start(self, prompt: Sequence[int], capacity: int) -> None:
        """Begin a sequence of at most `capacity` tokens. Raises InputError where it takes none of that length."""
        ...

    def extend(self, tokens: Sequence[int]) -> None:
        """Append tokens that are certain."""
        ...

    def look(self) -> int | None:
        """The kind of the guess that there would be now, before its length is chosen; None: there is none."""
        ...

    def guess(self, count: int, sampler: Sampler) -> Guess:
        """Guess at most `count` tokens, which `sampler` is going to be asked for; it stays as it is."""
        ...
