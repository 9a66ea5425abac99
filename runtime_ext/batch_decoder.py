"""Several sequences at once: one run of the model takes a token of each, another reads a prompt beside them.

A weight is read once a run, whatever the number of rows, so a step of four sequences costs far less than four steps.
Of the model (runtime_ext/decoder.py has its inputs and outputs) a batch has B rows, each a sequence of its own length:

    input_ids               int64 [B, 1]                the new token of each
    attention_mask          int64 [B, t]                at the end of a row as many ones as it has tokens; t: the most
    position_ids            int64 [B, 1]                only where the model declares it: tokens of the row before
    past_key_values.i.key   any   [B, H, capacity, D]   the first B rows of a buffer [slots, H, capacity, D]

Such rows lie one after another in memory, so a run over the first B of them, or over a single one whose prompt is
read, takes a part of the buffer as it is: nothing is copied. The sequences of a step have to be its first rows. A gap,
where a sequence has ended, is closed by copying the tokens of the last row into it, once for each end. States of fixed
size are replaced by every run; they live in arrays of the group of sequences that last ran together, and are copied
when another group forms.

That needs keys and values in one buffer for past and present, in memory of the CPU. Where a model's cache grows, or
lives on a device, or where rotations depend on the length of a sequence (LongRoPE), each slot is a decoder of its own:
results are the same, and a step takes as long as those of its sequences one after another.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from dualbinary import DualBinaryError, InputError
from dualbinary.files.model_files import LONG_ROPE_AFTER, VERIFY_LOGITS
from runtime_ext.cache import cache_tensors, untouched_zeros
from runtime_ext.decoder import PROMPT_CHUNK, Decoder
from runtime_ext.load_errors import first_line
from runtime_ext.providers import CPU, Provider

if TYPE_CHECKING:
    import onnxruntime as ort

__all__ = ["BatchDecoder", "BatchSequence", "batch_decoder", "load_batch_decoder"]


class BatchSequence(Protocol):
    """A sequence that has a slot."""

    @property
    def length(self) -> int:
        """Its tokens in the cache."""
        ...


class BatchDecoder:
    """A loaded model with room for `slots` sequences of at most `capacity` tokens each, prompt and answer together.

    `open` takes a slot, `read` feeds tokens of one sequence, `step` one token of each of several, and `close` frees the
    slot. `verify` feeds a few guessed tokens of one, of which `rewind` takes back those that are wrong. Not for several
    threads. `batched` says whether a step is one run of the model.
    """

    batched: bool

    def __init__(self, decoder: Decoder, slots: int, capacity: int) -> None:
        """Raise InputError for less than one slot or token, and where `capacity` is beyond the model's context."""
        if slots < 1 or capacity < 1:
            raise InputError(f"expected at least 1 slot and 1 token, got {slots} and {capacity}")
        if capacity > decoder.config.context_length:
            raise InputError(f"{capacity} tokens do not fit the context of {decoder.config.context_length}")
        self.slots, self.capacity = slots, capacity
        self.config, self.vocabulary = decoder.config, decoder.vocabulary
        self.cache_bytes_per_token = decoder.cache_bytes_per_token
        self._decoder = decoder
        self._open: list[BatchSequence | None] = [None] * slots

    @property
    def free(self) -> int:
        """The number of slots that no sequence has."""
        return self._open.count(None)

    def open(self) -> BatchSequence:
        """Take a slot for a new sequence.

        Raises InputError where all are taken, and DualBinaryError where there is no memory for it; the slot stays free.
        """
        if None not in self._open:
            raise InputError(f"all {self.slots} slots are taken; close a sequence first")
        row = self._open.index(None)
        try:
            self._open[row] = sequence = self._begin(row)
        except Exception as error:  # ONNX Runtime's own exceptions share no narrower base
            raise DualBinaryError(
                f"a slot of {self.capacity} tokens cannot be had: {first_line(error)}; "
                "a smaller context or fewer slots take less memory"
            ) from error
        return sequence

    def close(self, sequence: BatchSequence) -> None:
        """Free the slot of `sequence`, which ends."""
        self._open[self._row(sequence)] = None

    def read(self, sequence: BatchSequence, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Append `tokens` (at least one) to a sequence and return the logits [vocabulary] that follow the last of them.

        Raises InputError where they do not fit, or the model has no such token.
        """
        raise NotImplementedError

    def step(self, sequences: Sequence[BatchSequence], tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Append a token to each of different sequences, and return the logits [sequences, vocabulary] after them.

        Raises InputError as `read` does, before any of them has changed.
        """
        raise NotImplementedError

    def verify_limit(self, sequence: BatchSequence) -> int:
        """Tokens of `sequence` that `verify` takes next at most; 0 where the model verifies none."""
        return min(self._decoder.verify_tokens, self.capacity - sequence.length)

    def verify(self, sequence: BatchSequence, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Append `tokens` to a sequence and return the logits [tokens, vocabulary] that follow each of them.

        Raises InputError for none or more than `verify_limit`, and where the model has no such token.
        """
        raise NotImplementedError

    def rewind(self, sequence: BatchSequence, length: int) -> None:
        """Forget all tokens of a sequence but the first `length`.

        Raises InputError where there are fewer, and where the model cannot go back.
        """
        raise NotImplementedError

    def _begin(self, row: int) -> BatchSequence:
        raise NotImplementedError

    def _row(self, sequence: BatchSequence) -> int:
        for row, held in enumerate(self._open):
            if held is sequence:
                return row
        raise InputError("the sequence has no slot: it was closed, or belongs to another decoder")

    def _check(self, sequence: BatchSequence, tokens: Sequence[int]) -> None:
        self._row(sequence)
        if not tokens:
            raise InputError("expected at least one token, got none")
        if sequence.length + len(tokens) > self.capacity:
            raise InputError(f"{sequence.length + len(tokens)} tokens, but a slot has room for {self.capacity}")
        self._decoder.check(tokens)


def load_batch_decoder(
    path: Path, slots: int, capacity: int, threads: int = 0, library: bool = True, provider: Provider = CPU
) -> BatchDecoder:
    """Load an exported model for `slots` sequences of at most `capacity` tokens; 0: the model's context.

    Raises InputError and DualBinaryError as Decoder.load does.
    """
    decoder = Decoder.load(path, threads, library, provider)
    return batch_decoder(decoder, slots, capacity or decoder.config.context_length)


def batch_decoder(decoder: Decoder, slots: int, capacity: int) -> BatchDecoder:
    """The kind of batch decoder that the model of `decoder` allows; see the module's docstring."""
    switch = int(decoder.session.get_modelmeta().custom_metadata_map.get(LONG_ROPE_AFTER, 0))
    in_place = decoder.config.share_buffer and decoder.provider.name == "cpu"
    rows = in_place and not (switch and capacity > switch)
    return _Rows(decoder, slots, capacity) if rows else _Decoders(decoder, slots, capacity)


class _OwnDecoder:
    """A sequence with a decoder of its own."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder

    @property
    def length(self) -> int:
        return self.decoder.length


class _Decoders(BatchDecoder):
    """A decoder for each slot, all on one session."""

    batched = False

    def __init__(self, decoder: Decoder, slots: int, capacity: int) -> None:
        super().__init__(decoder, slots, capacity)
        # A session never lets go of a captured graph, which reads and writes the buffers of its decoder: those serve
        # all sequences of a slot. Elsewhere a sequence that ends frees its memory.
        self._captured: dict[int, Decoder] = {}

    def _begin(self, row: int) -> _OwnDecoder:
        provider = self._decoder.provider
        decoder = self._captured.get(row) or Decoder(self._decoder.session, self.config, provider)
        decoder.start(self.capacity)
        if provider.cuda_graph:
            self._captured[row] = decoder
        return _OwnDecoder(decoder)

    def read(self, sequence: BatchSequence, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        self._check(sequence, tokens)
        assert isinstance(sequence, _OwnDecoder)
        return sequence.decoder.step(tokens)

    def step(self, sequences: Sequence[BatchSequence], tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        for sequence, token in zip(sequences, tokens, strict=True):
            self._check(sequence, [token])
        return np.stack([self.read(sequence, [token]) for sequence, token in zip(sequences, tokens, strict=True)])

    def verify_limit(self, sequence: BatchSequence) -> int:
        assert isinstance(sequence, _OwnDecoder)
        return sequence.decoder.verify_limit

    def verify(self, sequence: BatchSequence, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        self._row(sequence)
        assert isinstance(sequence, _OwnDecoder)
        return sequence.decoder.verify(tokens)

    def rewind(self, sequence: BatchSequence, length: int) -> None:
        self._row(sequence)
        assert isinstance(sequence, _OwnDecoder)
        sequence.decoder.rewind(length)


class _Group:
    """Sequences that ran together, and their states: `now` is what the next run reads, `after` what it writes."""

    def __init__(self, members: tuple[_Row, ...], now: dict[str, npt.NDArray[np.number]]) -> None:
        self.members, self.now = members, now
        self.after = {name: np.empty_like(value) for name, value in now.items()}
        for place, member in enumerate(members):
            member.group, member.place = self, place

    def swap(self) -> None:
        self.now, self.after = self.after, self.now


class _Row:
    """A sequence in a row of the buffers; its states are row `place` of `group.now`."""

    group: _Group
    place: int

    def __init__(self) -> None:
        self.length = 0


class _Rows(BatchDecoder):
    """All slots in common buffers."""

    batched = True

    def __init__(self, decoder: Decoder, slots: int, capacity: int) -> None:
        super().__init__(decoder, slots, capacity)
        self._session = decoder.session
        tensors = cache_tensors(self._session)
        self._states = [tensor for tensor in tensors if not tensor.grows]
        # What no token has been written to takes no memory, so slots may have far more room than is used.
        self._buffers = [
            (
                tensor,
                untouched_zeros((slots, *(capacity if size is None else size for size in tensor.shape)), tensor.dtype),
            )
            for tensor in tensors
            if tensor.grows
        ]
        self._has_positions = "position_ids" in {value.name for value in self._session.get_inputs()}
        outputs = {value.name for value in self._session.get_outputs()}
        self._verified = VERIFY_LOGITS if VERIFY_LOGITS in outputs else "logits"
        self._bindings: dict[tuple[int, int, str], ort.IOBinding] = {}
        self._columns = np.arange(capacity)

    def _begin(self, row: int) -> _Row:
        sequence = _Row()
        _Group((sequence,), {tensor.past: tensor.zeros(0) for tensor in self._states})
        return sequence

    def read(self, sequence: BatchSequence, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        self._check(sequence, tokens)
        assert isinstance(sequence, _Row)
        logits = np.empty((1, 0), np.float32)
        for first in range(0, len(tokens), PROMPT_CHUNK):
            piece = np.asarray([tokens[first : first + PROMPT_CHUNK]], np.int64)
            logits = self._run(self._row(sequence), (sequence,), piece)
        return logits[0, -1].astype(np.float32)

    def step(self, sequences: Sequence[BatchSequence], tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        for sequence, token in zip(sequences, tokens, strict=True):
            self._check(sequence, [token])
        if not sequences:
            return np.empty((0, self.vocabulary or 0), np.float32)
        if len({id(sequence) for sequence in sequences}) < len(sequences):
            raise InputError("expected a token for each of different sequences, got one of them twice")
        self._move_to_front(sequences)
        rows = [self._row(sequence) for sequence in sequences]
        members = tuple(held for held in self._open[: len(rows)] if isinstance(held, _Row))
        logits = self._run(0, members, np.asarray(tokens, np.int64)[np.argsort(rows), None])
        return logits[rows, -1].astype(np.float32)

    def verify(self, sequence: BatchSequence, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        if not 0 < len(tokens) <= self.verify_limit(sequence):
            raise InputError(f"{len(tokens)} tokens to verify, expected 1 to {self.verify_limit(sequence)}")
        self._check(sequence, tokens)
        assert isinstance(sequence, _Row)
        ids = np.asarray([tokens], np.int64)
        return self._run(self._row(sequence), (sequence,), ids, self._verified)[0].astype(np.float32)

    def rewind(self, sequence: BatchSequence, length: int) -> None:
        self._row(sequence)
        assert isinstance(sequence, _Row)
        if not 0 <= length <= sequence.length:
            raise InputError(f"cannot go back to {length} of {sequence.length} tokens")
        if length < sequence.length and not self._decoder.can_rewind:
            raise InputError("layers of this model carry states, which cannot go back by a token")
        sequence.length = length

    def _move_to_front(self, sequences: Sequence[BatchSequence]) -> None:
        """Give `sequences` the first rows of the buffers."""
        rows, count = {self._row(sequence) for sequence in sequences}, len(sequences)
        gaps = [row for row in range(count) if row not in rows]
        for gap, row in zip(gaps, sorted(row for row in rows if row >= count), strict=True):
            self._swap(gap, row)

    def _swap(self, first: int, second: int) -> None:
        """Exchange two rows with all that they hold, as far as there are tokens."""
        lengths = [0 if held is None else held.length for held in (self._open[first], self._open[second])]
        for _, buffer in self._buffers:
            kept = buffer[first, :, : lengths[0]].copy()
            buffer[first, :, : lengths[1]] = buffer[second, :, : lengths[1]]
            buffer[second, :, : lengths[0]] = kept
        self._open[first], self._open[second] = self._open[second], self._open[first]

    def _run(
        self, first: int, members: tuple[_Row, ...], ids: npt.NDArray[np.int64], output: str = "logits"
    ) -> npt.NDArray[np.floating]:
        """`output` [rows, n, vocabulary] after `ids` [rows, s] of `members`, which have the rows from `first` on."""
        new = ids.shape[1]
        past = np.array([[member.length] for member in members])
        total = int(past.max()) + new
        binding = self._binding(first, len(members), output)
        binding.bind_cpu_input("input_ids", ids)
        binding.bind_cpu_input("attention_mask", (self._columns[:total] >= total - new - past).astype(np.int64))
        if self._has_positions:
            binding.bind_cpu_input("position_ids", past + np.arange(new))
        binding.bind_output(output)  # again, or the run would write into those of the last one
        try:
            group = self._group(members)
            for tensor in self._states:
                binding.bind_ortvalue_input(tensor.past, _value(group.now[tensor.past]))
                binding.bind_ortvalue_output(tensor.present, _value(group.after[tensor.past]))
            self._session.run_with_iobinding(binding)
            logits = binding.get_outputs()[0].numpy()
        except Exception as error:  # as in `open`
            raise DualBinaryError(f"ONNX Runtime failed while running the model: {first_line(error)}") from error
        group.swap()
        for member in members:
            member.length += new
        return logits

    def _binding(self, first: int, count: int, output: str) -> ort.IOBinding:
        """What binds rows [first, first + count) of the buffers, made once. Its first output is `output`."""
        if (first, count, output) not in self._bindings:
            binding = self._session.io_binding()
            binding.bind_output(output)
            for tensor, buffer in self._buffers:
                rows = _value(buffer[first : first + count])
                binding.bind_ortvalue_input(tensor.past, rows)
                binding.bind_ortvalue_output(tensor.present, rows)
            self._bindings[first, count, output] = binding
        return self._bindings[first, count, output]

    def _group(self, members: tuple[_Row, ...]) -> _Group:
        """The group of exactly these sequences in this order, with their states."""
        group = members[0].group
        if group.members == members and all(member.group is group for member in members):
            return group
        rows = {tensor.past: [m.group.now[tensor.past][m.place :][:1] for m in members] for tensor in self._states}
        return _Group(members, {name: np.concatenate(values) for name, values in rows.items()})


def _value(array: npt.NDArray[np.number]) -> ort.OrtValue:
    """A value in the memory of `array`, which is contiguous."""
    import onnxruntime as ort  # late: a command that prints its help does without

    return ort.OrtValue.ortvalue_from_numpy(array, "cpu", 0)
