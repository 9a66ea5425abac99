"""Several prompts, answered together: the file that holds them, and their answers in its order."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dualbinary import DualBinaryError, InputError
from runtime_ext.batch_decoder import batch_decoder
from runtime_ext.batcher import Batcher, Job
from runtime_ext.decoder import Decoder
from runtime_ext.generation import Generation, answer_limit

__all__ = ["as_line", "generate_all", "read_prompts"]

_QUOTE = '"'


def generate_all(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    samplers: Sequence[Callable[[npt.NDArray[np.float32]], int]],
    slots: int,
    longest_guess: int = 0,
    ends: Sequence[Callable[[int], bool]] | None = None,
) -> Iterator[Generation]:
    """Yield the continuation of each prompt, in their order, with up to `slots` of them in each run of the model.

    Each prompt has a sampler of its own, and may have one of `ends`, which is asked with each token and says where the
    answer ends, that token included. While one runs alone, up to `longest_guess` tokens are guessed for each run
    (`speculation.longest_guess`). `prompt_seconds` of a result is the time until its first token, waiting for a
    slot included, and `decode_seconds` the time from there on. Raises InputError where a prompt is empty or leaves no
    room in the context, before any is read, and DualBinaryError where the model's logits are not finite.
    """
    context = decoder.config.context_length
    limits = [answer_limit(prompt, max_new_tokens, context) for prompt in prompts]
    longest = max((len(prompt) + limit for prompt, limit in zip(prompts, limits, strict=True)), default=1)
    batcher = Batcher(batch_decoder(decoder, min(slots, max(len(prompts), 1)), longest), longest_guess)
    ends = ends or [lambda token: False] * len(prompts)
    answers = [_Answer(*each) for each in zip(prompts, limits, samplers, ends, strict=True)]
    for answer in answers:
        batcher.add(answer.job)
    for answer in answers:
        while answer.ended is None:
            batcher.advance()
        if isinstance(answer.ended, DualBinaryError):
            raise answer.ended
        yield answer.generation()


def read_prompts(path: Path) -> list[str]:
    """The prompts in a file of lines; a line that begins with a quotation mark is a JSON string. Empty lines are none.

    Raises InputError for a file that is not there, holds no prompt or other bytes than UTF-8, or a damaged string.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # without the mark that editors put first
    except ValueError as error:
        raise InputError(f"{path}: not UTF-8 text ({error})") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    prompts = [_prompt(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not prompts:
        raise InputError(f"{path}: expected a prompt on a line, got none")
    return prompts


def as_line(text: str) -> str:
    """A text on one line, so that `read_prompts` would read it: as a JSON string where it has to be one."""
    plain = not text.startswith(_QUOTE) and text.splitlines() in ([], [text])
    return text if plain else json.dumps(text, ensure_ascii=False)


def _prompt(path: Path, number: int, line: str) -> str:
    if not line.startswith(_QUOTE):
        return line.removesuffix("\r")
    try:
        text = json.loads(line)
    except ValueError as error:
        raise InputError(f"{path}: line {number}: a line that begins with {_QUOTE} is a JSON string: {error}") from None
    return text


class _Answer:
    """A job, and what it gives."""

    def __init__(
        self,
        prompt: Sequence[int],
        limit: int,
        sampler: Callable[[npt.NDArray[np.float32]], int],
        ends: Callable[[int], bool],
    ) -> None:
        self._ends = ends
        self.job = Job(prompt, limit, sampler, self.take, self.end)
        self.ended: str | DualBinaryError | None = None
        self._tokens: list[int] = []
        self._began = self._first = self._last = time.perf_counter()

    def take(self, token: int, logits: npt.NDArray[np.float32]) -> bool:
        self._last = time.perf_counter()
        if not self._tokens:
            self._first = self._last
        self._tokens.append(token)
        return self._ends(token)

    def end(self, reason: str | DualBinaryError) -> None:
        self.ended = reason

    def generation(self) -> Generation:
        waited, took = self._first - self._began, self._last - self._first
        job = self.job
        return Generation(self._tokens, str(self.ended), waited, took, job.runs, job.guessed, job.accepted)
