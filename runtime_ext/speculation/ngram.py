"""Guesses from the text so far: where its last tokens stood before, the same may follow as did then.

Answers that quote, summarize, correct or reformat what was asked repeat long runs of it, and code repeats itself. No
second model is asked, so a guess costs nothing but the rows that check it.
"""

from collections.abc import Sequence

from runtime_ext.sampling import Sampler
from runtime_ext.speculation.guess import Guess

__all__ = ["NgramGuesser"]


class NgramGuesser:
    """Looks up the last n tokens, the longest n first; see Guesser.

    `kind` of a guess is the n of its match: a longer one is right more often.
    """

    def __init__(self, longest: int = 7, sizes: Sequence[int] = (4, 3, 2)) -> None:
        """Guesses have up to `longest` tokens; `sizes` are the values of n, longest first."""
        self.longest = longest
        self._sizes = tuple(sizes)
        self.start((), 0)

    def start(self, prompt: Sequence[int], capacity: int) -> None:
        """See Guesser. Any length will do."""
        self._tokens: list[int] = []
        # Where the tokens that followed an n-gram begin, the last time that it stood before the end.
        self._after: dict[tuple[int, ...], int] = {}
        self._noted = 0  # n-grams that end before this place are noted
        self.extend(prompt)

    def extend(self, tokens: Sequence[int]) -> None:
        """See Guesser."""
        self._tokens += tokens
        # The n-gram at the very end has nothing after it, and must not be found as its own match.
        for end in range(self._noted + 1, len(self._tokens)):
            for size in self._sizes:
                if size <= end:
                    self._after[tuple(self._tokens[end - size : end])] = end
        self._noted = max(len(self._tokens) - 1, 0)

    def look(self) -> int | None:
        """See Guesser."""
        return self._match()[0]

    def guess(self, count: int, sampler: Sampler) -> Guess:
        """See Guesser."""
        return self.lookup(count)

    def lookup(self, count: int) -> Guess:
        """A guess of at most `count` tokens. One that reaches the end of the text goes on with itself, as in a list."""
        kind, begin = self._match()
        if kind is None:
            return Guess([])
        count, known = min(count, self.longest), len(self._tokens)
        tokens = self._tokens[begin : begin + count]
        while len(tokens) < count:
            tokens.append(tokens[len(tokens) - (known - begin)])
        return Guess(tokens, kind)

    def _match(self) -> tuple[int | None, int]:
        """The n of the longest match and where what followed begins."""
        for size in self._sizes:
            if size <= len(self._tokens) and (begin := self._after.get(tuple(self._tokens[-size:]))) is not None:
                return size, begin
        return None, 0
