"""A conversation with a model: its messages, and the tokens of them that the decoder has read.

Each turn renders the whole conversation by the chat template. What the decoder has read stays as far as the new tokens
begin alike; it goes back to there (Decoder.rewind) and reads the rest. Models that carry states cannot go back: where
the conversation does not simply go on, they read it again.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dualbinary import InputError
from runtime_ext.decoder import PROMPT_CHUNK, Decoder
from runtime_ext.generate import follow
from runtime_ext.generation import Generation
from runtime_ext.sampling import Sampler
from runtime_ext.speculation import Speculation
from runtime_ext.text import TextCodec

__all__ = ["ContextFullError", "Conversation", "Turn"]

Message = dict[str, str]


class ContextFullError(InputError):
    """The conversation does not fit the context any more."""


@dataclass
class Turn(Generation):
    """What one answer took. Of `prompt_tokens` in all, `cached_tokens` had been read in earlier turns."""

    prompt_tokens: int = 0
    cached_tokens: int = 0


class Conversation:
    """Messages of system, user and assistant. `messages` may be changed between answers: the cache follows."""

    def __init__(self, decoder: Decoder, codec: TextCodec, capacity: int, speculation: Speculation | None) -> None:
        """`capacity` are the tokens that fit, answers included. Raises InputError where the model has fewer."""
        decoder.start(capacity)
        self.messages: list[Message] = []
        self.system = ""
        self.capacity = capacity
        self.codec = codec
        self._decoder, self._speculation = decoder, speculation
        self._read: list[int] = []
        self._replaced: str | None = None  # by the last question

    def answer(self, max_new_tokens: int, sampler: Sampler, turn: Turn, stopped: Callable[[], bool]) -> Iterator[str]:
        """Yield the text of the answer to `messages` in pieces; it becomes the last of them, and `turn` is filled in.

        `stopped` is asked between tokens; what there is then is the answer. Raises ContextFullError where there is no
        room for an answer, and InputError where the template does not take the messages.
        """
        prompt = self.prompt()
        room = self.capacity - len(prompt)
        turn.prompt_tokens = len(prompt)
        if room < 1:
            raise ContextFullError(
                f"the conversation has {len(prompt)} tokens, which leaves no room for an answer in {self.capacity}"
            )
        logits = self._read_on(prompt, turn, stopped)
        try:
            if logits is not None:
                limit = min(max_new_tokens, room)
                tokens = follow(self._decoder, prompt, logits, limit, sampler, turn, self._speculation)
                with contextlib.closing(tokens):  # guesses that were under way are taken back before they are counted
                    yield from self.codec.stream(_until(tokens, stopped, turn))
            else:
                turn.finish_reason = "stopped"
        finally:  # also where nobody asks for more
            self._read = [*prompt, *turn.tokens][: self._decoder.length]
            if turn.tokens or turn.finish_reason == "stop":
                self.messages.append({"role": "assistant", "content": self.codec.decode(turn.tokens)})
                self._replaced = None

    def ask(self, question: str) -> None:
        """Add a question, in the place of one that was stopped before its answer began: many templates take turns."""
        self._replaced = self.undo() if self.messages and self.messages[-1]["role"] == "user" else None
        self.messages.append({"role": "user", "content": question})

    def take_back(self) -> None:
        """Undo the last question, which cannot be answered; the one whose place it took is there again."""
        self.undo()
        if self._replaced is not None:
            self.messages.append({"role": "user", "content": self._replaced})
        self._replaced = None

    def prompt(self) -> list[int]:
        """The tokens of the conversation, up to where the next answer begins. Raises InputError by the template."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return self.codec.encode_messages([*system, *self.messages])

    def set_system(self, text: str) -> None:
        """Have the system prompt `text` from now on, none where it is empty.

        Raises InputError, and keeps the one before, where the template takes no system prompt or leaves it out.
        """
        if text:
            asked = [{"role": "user", "content": "hello"}]
            found = self.codec.chat_text([{"role": "system", "content": text}, *asked])
            if text.strip() not in found and found == self.codec.chat_text(asked):
                raise InputError("the chat template leaves system prompts out; say it in the first question")
        self.system = text

    def undo(self) -> str | None:
        """Take back the last question and its answer, and return the question; None where there is none."""
        users = [place for place, message in enumerate(self.messages) if message["role"] == "user"]
        if not users:
            return None
        question = self.messages[users[-1]]["content"]
        del self.messages[users[-1] :]
        return question

    def _read_on(
        self, prompt: Sequence[int], turn: Turn, stopped: Callable[[], bool]
    ) -> npt.NDArray[np.float32] | None:
        """The logits after `prompt`, of which only what is new is read; None where it was stopped."""
        began = time.perf_counter()
        self._go_back(_common(self._read, prompt))
        turn.cached_tokens = self._decoder.length
        logits = None
        for first in range(self._decoder.length, len(prompt), PROMPT_CHUNK):
            if stopped():
                self._read = list(prompt[: self._decoder.length])
                return None
            logits = self._decoder.step(prompt[first : first + PROMPT_CHUNK])
            self._read = list(prompt[: self._decoder.length])
        turn.prompt_seconds = time.perf_counter() - began
        return logits

    def _go_back(self, length: int) -> None:
        """Make the decoder have read the first `length` tokens, or none where it cannot go back."""
        try:
            self._decoder.rewind(min(length, self._decoder.length))
        except InputError:  # states, or factors of a rotation that have changed since
            self._decoder.start(self.capacity)


def _common(read: Sequence[int], prompt: Sequence[int]) -> int:
    """How many tokens both begin with; one of `prompt` is always left to read, as its logits are needed."""
    same = 0
    for had, wanted in zip(read, prompt[:-1], strict=False):
        if had != wanted:
            break
        same += 1
    return same


def _until(tokens: Iterator[int], stopped: Callable[[], bool], turn: Turn) -> Iterator[int]:
    for token in tokens:
        yield token
        if stopped():
            turn.finish_reason = "stopped"
            return
