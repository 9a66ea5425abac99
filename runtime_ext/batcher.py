"""Continuous batching: jobs come and go while others run.

    while batcher.busy:
        batcher.advance()       one piece of a prompt, and one token of every sequence that has read its prompt

A job waits until a slot is free and those before it have read their prompts; then its prompt is read in pieces, between
which the others go on; then it gets a token at each step until it ends. Greedy jobs, and those with a seed, get the
tokens that they would get alone, as far as the kernels give the same logits for any number of rows: a model whose
activations are rounded to 8 bits (accuracy level 4) has another kernel from four rows on.

A job that runs alone, as where a server has one user, takes several tokens a step where looking them up in its own text
guesses them right (speculation/lone.py); its text is the same.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from dualbinary import DualBinaryError
from runtime_ext.batch_decoder import BatchDecoder, BatchSequence
from runtime_ext.decoder import PROMPT_CHUNK
from runtime_ext.generation import answer_limit
from runtime_ext.load_errors import first_line
from runtime_ext.speculation.lone import LoneGuesses

__all__ = ["Batcher", "CallbackError", "Job"]

# Tokens of a prompt between two steps of the others. Fewer would read the weights more often than there is work for (8
# gave a fifth fewer tokens in all), more would let the others wait (64: a token's p95 was three times its p50).
PIECE = 16
# A rest of so many tokens goes with the piece before: attention sums it up as it does new tokens, in another order, and
# an answer is to be the one that the prompt gets alone.
FEW = 8

OnToken = Callable[[int, npt.NDArray[np.float32]], bool]
OnEnd = Callable[[str | DualBinaryError], None]


class CallbackError(DualBinaryError):
    """The sampler of a job or its `on_token` raised an exception, which is the cause of this one."""

    def __init__(self, does: str, error: Exception) -> None:
        super().__init__(f"what {does} the tokens failed: {type(error).__name__}: {error}")
        self.__cause__ = error


@dataclass(eq=False)
class Job:
    """A prompt to continue.

    Attributes:
        prompt: token ids.
        max_new_tokens: the answer has this many at most, fewer where the slot has no room for them.
        sampler: chooses a token by logits [vocabulary], such as a Sampler; it serves one job.
        on_token: called with each token and the logits that it was chosen by. Returns True to end the job there.
        on_end: called once, with why it ended: "stop" at an end-of-text token or by `on_token`, "length" at the limit,
            "canceled", or the error: CallbackError where the sampler or `on_token` raised one. It must not raise one
            itself, which would break off the step of all others.
        runs: of the model after the prompt.
        guessed, accepted: tokens that were guessed, and those of them that were right.
    """

    prompt: Sequence[int]
    max_new_tokens: int
    sampler: Callable[[npt.NDArray[np.float32]], int]
    on_token: OnToken
    on_end: OnEnd
    runs: int = field(init=False, default=0)
    guessed: int = field(init=False, default=0)
    accepted: int = field(init=False, default=0)
    _limit: int = field(init=False, default=0)
    _ended: bool = field(init=False, default=False)
    _answer: list[int] = field(init=False, default_factory=list)


@dataclass(eq=False)
class _Reading:
    job: Job
    sequence: BatchSequence


class Batcher:
    """Jobs over the slots of a batch decoder. Not for several threads; `on_token` and `on_end` may add and end jobs."""

    def __init__(self, decoder: BatchDecoder, longest_guess: int = 0) -> None:
        """Guess up to `longest_guess` tokens for a job that runs alone (`speculation.longest_guess`)."""
        self._decoder = decoder
        self._guesses = LoneGuesses(longest_guess) if longest_guess > 0 else None
        self._waiting: deque[Job] = deque()
        self._reading: _Reading | None = None
        self._running: dict[Job, BatchSequence] = {}

    @property
    def busy(self) -> bool:
        """True while there are jobs."""
        return bool(self._waiting or self._reading or self._running)

    @property
    def waiting(self) -> int:
        """Jobs without a slot."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Jobs with a slot."""
        return len(self._running) + (self._reading is not None)

    def add(self, job: Job) -> None:
        """Take a job in. Raises InputError where its prompt is empty or leaves no room for an answer."""
        job._limit = answer_limit(job.prompt, job.max_new_tokens, self._decoder.capacity)
        self._waiting.append(job)

    def cancel(self, job: Job) -> None:
        """End a job. Nothing happens where it has ended already."""
        if job in self._waiting:
            self._waiting.remove(job)
            job.on_end("canceled")
        elif job in self._running:
            self._end(job, self._running[job], "canceled")
        elif self._reading is not None and self._reading.job is job:
            sequence, self._reading = self._reading.sequence, None
            self._end(job, sequence, "canceled")

    def advance(self) -> None:
        """Read a piece of one prompt and take a step with all that have read theirs."""
        self._begin()
        self._read()
        self._step()

    def _begin(self) -> None:
        if self._reading is not None or not self._waiting or not self._decoder.free:
            return
        job = self._waiting.popleft()
        try:
            self._reading = _Reading(job, self._decoder.open())
        except DualBinaryError as error:
            self._end(job, None, error)

    def _read(self) -> None:
        if self._reading is None:
            return
        job, sequence = self._reading.job, self._reading.sequence
        piece = PIECE if self._running else PROMPT_CHUNK
        if len(job.prompt) - sequence.length <= piece + FEW:
            piece += FEW
        try:
            logits = self._decoder.read(sequence, job.prompt[sequence.length : sequence.length + piece])
        except DualBinaryError as error:
            self._reading = None
            self._end(job, sequence, error)
            return
        if sequence.length == len(job.prompt):
            self._reading = None
            self._running[job] = sequence
            self._choose(job, sequence, logits)

    def _step(self) -> None:
        jobs = list(self._running)
        if not jobs:
            return
        if len(jobs) == 1 and self._reading is None and self._guesses is not None:
            self._step_alone(jobs[0], self._guesses)
            return
        sequences = [self._running[job] for job in jobs]
        try:
            logits = self._decoder.step(sequences, [job._answer[-1] for job in jobs])
        except DualBinaryError as error:
            for job, sequence in zip(jobs, sequences, strict=True):
                self._end(job, sequence, error)
            return
        for job, sequence, row in zip(jobs, sequences, logits, strict=True):
            job.runs += 1
            if job in self._running:  # the end of another one may have canceled it
                self._choose(job, sequence, row)

    def _step_alone(self, job: Job, guesses: LoneGuesses) -> None:
        """A run that checks what is guessed of the only job, and takes what is right of it and a token more."""
        sequence, last = self._running[job], job._answer[-1]
        length, most = sequence.length, min(job._limit - len(job._answer), self._decoder.verify_limit(sequence)) - 1
        guess = guesses.guess(job, job.prompt, job._answer, most)
        began = time.perf_counter()
        try:
            if guess.tokens:
                rows = self._decoder.verify(sequence, [last, *guess.tokens])
            else:
                rows = self._decoder.step([sequence], [last])
        except DualBinaryError as error:
            self._end(job, sequence, error)
            return
        seconds, right = time.perf_counter() - began, 0
        job.runs, job.guessed = job.runs + 1, job.guessed + len(guess.tokens)
        for place, row in enumerate(rows):
            self._choose(job, sequence, row)
            if job not in self._running or guess.tokens[place : place + 1] != job._answer[-1:]:
                break
            right, job.accepted = right + 1, job.accepted + 1
        if job in self._running:  # what was guessed wrong is no part of the sequence
            began = time.perf_counter()
            try:
                self._decoder.rewind(sequence, length + 1 + right)
            except Exception as error:  # a cache that grows is copied: as where a slot is opened
                self._end(job, sequence, DualBinaryError(f"tokens cannot be taken back: {first_line(error)}"))
                return
            seconds += time.perf_counter() - began
        guesses.judge(guess, right, seconds)

    def _choose(self, job: Job, sequence: BatchSequence, logits: npt.NDArray[np.float32]) -> None:
        """Choose the next token of a job, and end it where that is its last."""
        try:
            token = _chosen(job.sampler, logits)
        except DualBinaryError as error:
            self._end(job, sequence, error)
            return
        except Exception as error:  # a bug of the one who asked, which others need not suffer
            self._end(job, sequence, CallbackError("chooses", error))
            return
        if token in self._decoder.config.eos_token_ids:
            self._end(job, sequence, "stop")
            return
        job._answer.append(token)
        try:
            done = job.on_token(token, logits)
        except Exception as error:  # as above
            self._end(job, sequence, CallbackError("takes", error))
            return
        if done:
            self._end(job, sequence, "stop")
        elif len(job._answer) == job._limit:
            self._end(job, sequence, "length")

    def _end(self, job: Job, sequence: BatchSequence | None, reason: str | DualBinaryError) -> None:
        if job._ended:  # by itself, in `on_token`
            return
        job._ended = True
        self._running.pop(job, None)
        if sequence is not None:
            self._decoder.close(sequence)
        if self._guesses is not None:
            self._guesses.forget(job)
        job.on_end(reason)


def _chosen(sampler: Callable[[npt.NDArray[np.float32]], int], logits: npt.NDArray[np.float32]) -> int:
    """The token that `sampler` chooses. Raises ValueError where that is none: the next step of all jobs would fail."""
    token = sampler(logits)
    if token not in range(len(logits)):
        raise ValueError(f"expected a token from 0 to {len(logits) - 1}, got {token!r}")
    return token
