"""A batch decoder without a model, that says what a script has, at the pace that a test wants."""

import threading
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from runtime_ext.batch_decoder import BatchDecoder, BatchSequence
from runtime_ext.config import DecoderConfig
from runtime_ext.decoder import Decoder

LIKELY = 8.0  # the logit of what comes next, 0 for all others


class ScriptedDecoder(BatchDecoder):
    """Every sequence continues as `script` (token ids) from its beginning, and then again from there.

    While `gate` is not set, runs of the model wait; `runs` counts them.
    """

    batched = True

    def __init__(self, script: Sequence[int], vocabulary: int, slots: int = 2, capacity: int = 64, end: int = -1):
        config = DecoderConfig(capacity, (end,), True)
        model = SimpleNamespace(
            config=config, vocabulary=vocabulary, cache_bytes_per_token=0, check=lambda tokens: None
        )
        super().__init__(cast(Decoder, model), slots, capacity)
        self.script, self._size = list(script), vocabulary
        self.runs = 0
        self.gate = threading.Event()
        self.gate.set()

    def _begin(self, row: int) -> BatchSequence:
        return cast(Any, SimpleNamespace(length=0, said=-1))

    def read(self, sequence: BatchSequence, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        self._check(sequence, tokens)
        held = cast(Any, sequence)
        held.length += len(tokens)
        return self._next(held)

    def step(self, sequences: Sequence[BatchSequence], tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        return np.stack([self.read(sequence, [token]) for sequence, token in zip(sequences, tokens, strict=True)])

    def _next(self, held: Any) -> npt.NDArray[np.float32]:
        self.runs += 1
        assert self.gate.wait(30)
        held.said += 1
        logits = np.zeros(self._size, np.float32)
        logits[self.script[held.said % len(self.script)]] = LIKELY
        return logits
