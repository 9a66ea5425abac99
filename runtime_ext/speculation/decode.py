"""The loop of speculative decoding."""

import time
from collections.abc import Iterator, Sequence

from dualbinary import InputError
from runtime_ext.decoder import Decoder
from runtime_ext.generation import Generation
from runtime_ext.sampling import Sampler
from runtime_ext.speculation.guess import Guess, Guesser
from runtime_ext.speculation.pace import Pace

__all__ = ["Speculation"]


class Speculation:
    """Tokens of a model, several a run where guesses of `guesser` are right; `pace` says how many to guess.

    With `same_bits`, a run takes no more tokens than have the very logits that they would have alone.
    """

    def __init__(self, decoder: Decoder, guesser: Guesser, pace: Pace, *, same_bits: bool = False) -> None:
        """Raise InputError where the model of `decoder` gives no logits to check guesses by."""
        if not decoder.verifies:
            raise InputError(f"no guess can be checked: {decoder.why_not}")
        self._decoder, self._guesser, self._pace = decoder, guesser, pace
        self._longest = guesser.longest
        if same_bits:
            self._longest = min(self._longest, decoder.same_bits_limit - 1)

    def start(self, prompt: Sequence[int], capacity: int) -> None:
        """Begin a sequence, whose `prompt` the decoder has read."""
        self._guesser.start(prompt, capacity)

    def tokens(self, first: int, limit: int, sampler: Sampler, result: Generation) -> Iterator[int]:
        """Yield at most `limit` tokens that follow `first`, which the decoder has not read yet.

        Ends before one that ends the text, which `result` says then. `result` has the counts of guesses and the times.
        """
        decoder, last, left = self._decoder, first, limit
        self._guesser.extend([first])
        while left > 0:
            guess = self._guess(left - 1, sampler, result)
            length = decoder.length
            began = time.perf_counter()
            rows = decoder.verify([last, *guess.tokens]) if guess.tokens else decoder.step([last])[None]
            seconds = time.perf_counter() - began
            result.runs += 1
            accepted = 0
            try:
                for place, logits in enumerate(rows):
                    last = sampler(logits)
                    if last in decoder.config.eos_token_ids:
                        result.finish_reason = "stop"
                        break
                    result.tokens.append(last)
                    left -= 1
                    yield last
                    if place == len(guess.tokens) or last != guess.tokens[place]:
                        break
                    accepted += 1
            finally:  # also where nobody asks for more: what was guessed wrong is no part of the sequence
                began = time.perf_counter()
                decoder.rewind(length + 1 + accepted)
                seconds += time.perf_counter() - began
                result.decode_seconds += seconds
            self._pace.ran(len(rows), seconds)
            if guess.tokens:
                self._pace.judged(guess.kind, len(guess.tokens), accepted)
                result.guessed += len(guess.tokens)
                result.accepted += accepted
            if result.finish_reason == "stop":
                return
            self._guesser.extend(result.tokens[-(accepted + 1) :])

    def _guess(self, most: int, sampler: Sampler, result: Generation) -> Guess:
        """What to check in the next run."""
        most = min(most, self._longest, self._decoder.verify_limit - 1)
        began = time.perf_counter()
        kind = self._guesser.look() if most > 0 else None
        count = self._pace.count(kind, most) if kind is not None else 0
        guess = self._guesser.guess(count, sampler) if count else Guess([])
        result.decode_seconds += time.perf_counter() - began
        return guess
