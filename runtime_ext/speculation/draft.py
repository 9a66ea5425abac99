"""Guesses from a draft: a smaller model with the same vocabulary writes what may come next, a token at a time.

It draws with the random numbers that the sampler is going to draw with, so that two models that agree on the
distribution agree on the token.
"""

import time
from collections.abc import Sequence
from copy import deepcopy

from dualbinary import InputError
from runtime_ext.decoder import Decoder
from runtime_ext.sampling import Sampler
from runtime_ext.speculation.guess import Guess
from runtime_ext.speculation.pace import Pace

__all__ = ["DraftGuesser"]


class DraftGuesser:
    """Asks `draft` to go on with the text; see Guesser. `pace` is told how long a token of it takes."""

    def __init__(self, draft: Decoder, model: Decoder, pace: Pace, longest: int = 7) -> None:
        """Guess for `model`. Raises InputError where no token can be guessed."""
        if draft is model:
            raise InputError("the draft is the model itself, which holds one sequence; wrap its session once more")
        if draft.vocabulary != model.vocabulary:
            raise InputError(
                f"the draft has logits of {draft.vocabulary} tokens, the model of {model.vocabulary}; a draft needs "
                "the model's vocabulary, as smaller models of a family have it"
            )
        if not draft.can_rewind:
            raise InputError("layers of the draft carry states, so a wrong guess could not be taken back")
        self.longest = longest
        self._draft, self._pace = draft, pace
        self._tokens: list[int] = []
        self._read: list[int] = []  # what the draft's cache holds
        self._same = 0  # tokens at its beginning that are known to be right

    def start(self, prompt: Sequence[int], capacity: int) -> None:
        """See Guesser."""
        self._tokens = list(prompt)
        self._begin(min(capacity, self._draft.config.context_length))

    def extend(self, tokens: Sequence[int]) -> None:
        """See Guesser."""
        self._tokens += tokens

    def look(self) -> int | None:
        """See Guesser. None where the draft's context is full."""
        return 0 if len(self._tokens) < self._draft.capacity else None

    def guess(self, count: int, sampler: Sampler) -> Guess:
        """See Guesser. Ends before a token that ends the text."""
        self._take_back()
        sampler = deepcopy(sampler)
        tokens: list[int] = []
        pending = self._tokens[len(self._read) :]
        room = self._draft.capacity - len(self._tokens)
        for _ in range(min(count, self.longest, room + 1)):
            began = time.perf_counter()
            logits = self._draft.step(pending)
            if len(pending) == 1:
                self._pace.guess_seconds += (time.perf_counter() - began - self._pace.guess_seconds) / 8
            self._read += pending
            token = sampler(logits)
            if token in self._draft.config.eos_token_ids:
                break
            tokens.append(token)
            pending = [token]
        return Guess(tokens)

    def _begin(self, capacity: int) -> None:
        self._draft.start(capacity)
        self._read, self._same = [], 0

    def _take_back(self) -> None:
        """Make the draft forget what was guessed wrong, and the last token, as its logits are needed."""
        while self._same < min(len(self._read), len(self._tokens) - 1):
            if self._read[self._same] != self._tokens[self._same]:
                break
            self._same += 1
        try:
            self._draft.rewind(self._same)
            del self._read[self._same :]
        except InputError:  # the factors of its rotation have changed since: it reads all of the text again
            self._begin(self._draft.capacity)
