"""Guesses for sequences that come and go, while one of them has the model to itself.

Several sequences share a run, and a row for each guess would make them wait; a single one leaves room, as it does where
a server has one user. Guesses are lookups in its own text (ngram.py); the pace is one for all, since times are the
model's.
"""

from collections.abc import Sequence

from dualbinary import InputError
from runtime_ext.decoder import Decoder
from runtime_ext.speculation.guess import Guess
from runtime_ext.speculation.ngram import NgramGuesser
from runtime_ext.speculation.pace import Pace

__all__ = ["SPECULATE", "LoneGuesses", "longest_guess"]

SPECULATE = ("auto", "ngram", "none")
"""Values of `--speculate`, the first one where nothing is said."""


def longest_guess(decoder: Decoder, speculate: str, *, library: bool) -> int:
    """Tokens to look up at most, as `speculate` says, one of SPECULATE; 0 for none.

    "auto" are as many as get the very logits that they would get one by one, with the `library`. Raises InputError for
    "ngram" where the model gives no logits to check guesses by.
    """
    if speculate == "auto":
        return max(decoder.same_bits_limit - 1, 0) if library else 0
    if speculate == "none":
        return 0
    if not decoder.verifies:
        raise InputError(f"no guess can be checked: {decoder.why_not}")
    return NgramGuesser().longest


class LoneGuesses:
    """Guesses of up to `longest` tokens for whichever sequence asks; see the module's docstring."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._pace, self._lookup = Pace(), NgramGuesser(longest)
        self._owner: object = None
        self._known = 0  # tokens of its answer

    def guess(self, owner: object, prompt: Sequence[int], answer: Sequence[int], most: int) -> Guess:
        """What may follow `prompt` and `answer`, at most `most` tokens: those of `owner`, which only grow."""
        most = min(most, self._longest)
        if most <= 0:
            return Guess([])
        if owner is not self._owner:
            self._owner = owner
            self._lookup.start([*prompt, *answer], 0)
        else:
            self._lookup.extend(answer[self._known :])
        self._known = len(answer)
        kind = self._lookup.look()
        count = self._pace.count(kind, most) if kind is not None else 0
        return self._lookup.lookup(count) if count else Guess([])

    def judge(self, guess: Guess, right: int, seconds: float) -> None:
        """Note that the first `right` tokens of a guess were right, and the `seconds` that the run took."""
        self._pace.ran(1 + len(guess.tokens), seconds)
        if guess.tokens:
            self._pace.judged(guess.kind, len(guess.tokens), right)

    def forget(self, owner: object) -> None:
        """Let go of the text of `owner`, which has ended."""
        if owner is self._owner:
            self._owner = None
            self._lookup.start((), 0)
