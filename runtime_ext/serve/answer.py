"""From the tokens of a job to the text of an answer: whole characters, stop strings, and log probabilities."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dualbinary import DualBinaryError
from runtime_ext.stop_strings import kept_back, stop_place
from runtime_ext.text import TextCodec

__all__ = ["Answer", "Delta", "Scored", "Token"]


@dataclass(frozen=True)
class Token:
    """A token: the text and the bytes that it adds in its place, and the natural logarithm of its probability."""

    text: str
    data: bytes
    logprob: float


@dataclass(frozen=True)
class Scored:
    """A token of the answer, the most likely ones in its place, and the character of the answer that it begins at."""

    token: Token
    top: tuple[Token, ...]
    offset: int


@dataclass(frozen=True)
class Delta:
    """What is new: text, and tokens where their probabilities were asked for. The last one says why it ended.

    `finish_reason` is "stop" or "length", or "canceled" where the server gave it up; `error` is there in place of it.
    `tokens` counts those of the answer so far.
    """

    text: str = ""
    scored: tuple[Scored, ...] = ()
    tokens: int = 0
    finish_reason: str | None = None
    error: DualBinaryError | None = None

    @property
    def last(self) -> bool:
        """True for the end of the answer."""
        return self.finish_reason is not None or self.error is not None


class Answer:
    """What a job's callbacks make of its tokens: `emit` gets a Delta as soon as there is certain text.

    Text that may be the beginning of a stop string is kept back until it is known. The answer ends before the first
    stop string; tokens that begin at it or after it are left out with their probabilities.
    """

    def __init__(
        self,
        codec: TextCodec,
        stop: Sequence[str],
        top_logprobs: int | None,
        emit: Callable[[Delta], None],
        after: Sequence[int] = (),
    ) -> None:
        """Continue the text of the tokens `after`.

        With `top_logprobs`, a number from 0 on, tokens come with as many others in their place.
        """
        self._stop, self._top, self._emit = stop, top_logprobs, emit
        self._pieces = codec.pieces(after)
        self._tokens: list[int] = []
        self._text = ""
        self._sent = 0  # characters
        self._scored: list[Scored] = []  # of tokens whose text was not sent
        self._stopped = False

    def take(self, token: int, logits: npt.NDArray[np.float32]) -> bool:
        """Take the next token and the logits that it was chosen by; True where the answer ends at a stop string."""
        self._tokens.append(token)
        if self._top is not None:
            self._scored.append(self._score(token, logits))
        self._text += self._pieces(token)
        found = stop_place(self._text, self._stop, self._sent)
        self._stopped = found is not None
        end = len(self._text) - kept_back(self._text[self._sent :], self._stop) if found is None else found
        self._send(end, [each for each in self._scored if each.offset < end])
        return self._stopped

    def end(self, reason: str | DualBinaryError) -> None:
        """Send what was kept back, and the end."""
        if isinstance(reason, DualBinaryError):
            self._emit(Delta(tokens=len(self._tokens), error=reason))
            return
        if not self._stopped:
            self._text += self._pieces.end()
            self._send(len(self._text), self._scored)
        self._emit(Delta(tokens=len(self._tokens), finish_reason=reason))

    def _send(self, end: int, scored: list[Scored]) -> None:
        if end > self._sent or scored:
            self._emit(Delta(self._text[self._sent : end], tuple(scored), len(self._tokens)))
            self._sent = end
            self._scored = self._scored[len(scored) :]

    def _score(self, token: int, logits: npt.NDArray[np.float32]) -> Scored:
        assert self._top is not None
        count = min(self._top, len(logits))
        largest = float(logits.max())
        total = largest + np.log(np.exp(logits - largest, dtype=np.float64).sum())
        best = np.argpartition(-logits, count - 1)[:count] if count else np.empty(0, np.intp)
        best = best[np.argsort(-logits[best], kind="stable")]
        top = tuple(self._token(int(each), logits[each] - total) for each in best)
        return Scored(self._token(token, logits[token] - total), top, len(self._text))

    def _token(self, token: int, logprob: float) -> Token:
        # JSON has no infinities: a word that the model rules out.
        return Token(*self._pieces.next_text(token), max(float(logprob), -9999.0))
