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
    """Tokens of a model, several a run where guesses of `guesser` are right; `pace` says how many to guess."""

    def __init__(self, decoder: Decoder, guesser: Guesser, pace: Pace) -> None:
        """Raise InputError where the model of `decoder` gives no logits to check guesses by."""
        if not decoder.verifies:
            raise InputError(
                "the model gives the logits of the last token alone, so no guess can be checked; export it again, "
                "without --verify-tokens 0"
                if decoder.can_rewind
                else "layers of the model carry states, so a wrong guess could not be taken back"
            )
        self._decoder, self._guesser, self._pace = decoder, guesser, pace

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
            result.decode_seconds += seconds
            result.runs += 1
            self._pace.ran(len(rows), seconds)
            accepted = 0
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
            if guess.tokens:
                self._pace.judged(guess.kind, len(guess.tokens), accepted)
                result.guessed += len(guess.tokens)
                result.accepted += accepted
            if result.finish_reason == "stop":
                return
            decoder.rewind(length + 1 + accepted)
            self._guesser.extend(result.tokens[-(accepted + 1) :])

    def _guess(self, most: int, sampler: Sampler, result: Generation) -> Guess:
        """What to check in the next run."""
        most = min(most, self._guesser.longest, self._decoder.verify_limit - 1)
        began = time.perf_counter()
        kind = self._guesser.look() if most > 0 else None
        count = self._pace.count(kind, most) if kind is not None else 0
        guess = self._guesser.guess(count, sampler) if count else Guess([])
        result.decode_seconds += time.perf_counter() - began
        return guess
