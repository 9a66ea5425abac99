"""A decoder in ONNX Runtime: tokens in, logits out, and the key/value cache in between.

The model's inputs and outputs are those of onnxruntime-genai, for L layers:

    input_ids               int64 [1, s]                the s new tokens
    attention_mask          int64 [1, t]                ones; t counts the tokens in the cache and the new ones
    position_ids            int64 [1, s]                only where the model declares it
    past_key_values.i.key   float [1, H, length, D]     and .value, for i in 0..L-1; or int8 [1, H, length, D + 4]
    logits                  float [1, n, vocabulary]    n is s, or 1 where the model gives the last token's only
    verify_logits           float [1, n, vocabulary]    in some models: n is s where s is small, else 1
    present.i.key           float [1, H, length, D]     and .value, of the same type
    past.i.conv             float [1, C, K - 1]         and .recurrent [1, H, D, E], in layers without keys and values
    present.i.conv          float [1, C, K - 1]         and .recurrent

Where the configuration allows a shared buffer (GroupQueryAttention), `length` is the capacity of the cache, and past
and present of a layer are one buffer: a step writes its s rows and copies nothing. Elsewhere the cache grows: past has
the tokens so far, present has s more, and each step's present is the next one's past. States of layers without keys and
values (short convolutions, linear attention, Mamba-2) begin with zeros and are replaced at each step, whatever s is.
They cannot go back by a token: a run that fails leaves those of the last one, and another sequence begins with zeros.

Models with LongRoPE (Phi-3) rotate all keys of a sequence by one of two sets of factors: the long ones from the first
token on where the sequence is longer than a certain length, which the file's metadata states. A run takes the long ones
where one of its positions lies beyond that length. So a piece of a long prompt that lies below gets one token more, at
a position beyond, whose place in the cache the next piece takes; and a sequence that grows beyond it is read again.

Where a model gives the logits of several tokens, `verify` says what follows each of a few that were guessed, and
`rewind` takes back those that were wrong: rows of a shared buffer are written again, a growing cache loses its last
rows. States cannot go back, so those models verify nothing.

On CUDA the cache lives on the device and stays there. Tokens, mask and positions are bound as host memory, which ONNX
Runtime copies, a few kilobytes a step; logits come back as host memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

import runtime_ext
from dualbinary import DualBinaryError, InputError
from dualbinary.cli.options import option
from dualbinary.contract.versions import check_operator_versions
from dualbinary.files.model_files import LONG_ROPE_AFTER, SAME_BITS_TOKENS, VERIFY_LOGITS, VERIFY_TOKENS
from runtime_ext.cache import cache_tensors
from runtime_ext.config import DecoderConfig, metadata_count
from runtime_ext.load_errors import check_model_file, explained, first_line
from runtime_ext.operator_versions import opset_imports
from runtime_ext.providers import CPU, Provider
from runtime_ext.static_step import NO_CAPTURE, StaticStep, graph_options

if TYPE_CHECKING:
    import onnxruntime as ort

__all__ = ["PROMPT_CHUNK", "Decoder", "LoadOptions", "session_options"]

# A prompt is read in pieces of this many tokens. Attention holds scores [heads, s, t] at once; and models that give
# logits of all s tokens, in float32, take 154 MB for a piece where the vocabulary has 150,000 words.
PROMPT_CHUNK = 256


@dataclass(frozen=True)
class LoadOptions:
    """Options of a command that loads a model."""

    threads: int = option(0, help="threads of the session; 0: one per core", minimum=0, maximum=4096)
    library: bool = option(
        True, help="run the operator by the library; without it, by the function inside the model, if it has one"
    )


def session_options(threads: int = 0, library: bool = True) -> ort.SessionOptions:
    """Options for a decoder: all graph optimizations, `threads` (0: one per core), the operator's library.

    Spinning stays as ONNX Runtime has it, on: a token is some hundred short parallel sections in a row, and sleeping
    between them costs about 10 microseconds each. The threads go to sleep by themselves soon after a step.
    """
    import onnxruntime as ort  # late: a command that prints its help does without

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    # The graph is one chain; a second pool would only hold memory.
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.inter_op_num_threads = 1
    # A memory plan is kept for every new set of input shapes, and each step has a new length of the mask.
    options.enable_mem_pattern = False
    # Failures arrive as exceptions; the log would only interrupt the text.
    options.log_severity_level = 4
    if library:
        runtime_ext.register(options)
    return options


class Decoder:
    """A loaded model and its cache. `start` makes room, `step` feeds tokens; one sequence at a time.

    `vocabulary` is the length of the logits, None where unstated. `verify` takes up to `verify_tokens`; of those, up to
    `same_bits_limit` get the very logits that `step` would give, with the library: without it ONNX Runtime's products
    depend on the number of rows. A run gives the logits of `logits_per_run` new tokens.
    """

    def __init__(
        self, session: ort.InferenceSession, config: DecoderConfig, provider: Provider = CPU, static_steps: bool = False
    ) -> None:
        """Wrap a session on `provider`. `static_steps` feeds single tokens as runtime_ext/static_step.py does.

        Raises InputError where its inputs and outputs are not a decoder's, or steps cannot be static.
        """
        self.session = session
        self.config = config
        self.provider = provider
        _check_names(session)
        self._cache = cache_tensors(session)
        inputs = {value.name for value in session.get_inputs()}
        self._has_positions = "position_ids" in inputs
        known = {"input_ids", "attention_mask", "position_ids"} | {tensor.past for tensor in self._cache}
        if unknown := sorted(inputs - known):
            raise InputError(f"the model asks for the input {unknown[0]}, which no decoder of this project has")
        self._static = static_steps or provider.cuda_graph
        if self._static and not config.share_buffer:
            raise InputError("steps keep their shapes (cuda_graph) only with a shared cache; this model's cache grows")
        if self._static and not self.can_rewind:
            raise InputError("steps do not keep their memory (cuda_graph): layers of this model carry states")
        # Those that are bound anew at every step; the others have one buffer for past and present.
        self._handed = [tensor for tensor in self._cache if not (tensor.grows and config.share_buffer)]
        outputs = [value.name for value in session.get_outputs()]
        size = next(value for value in session.get_outputs() if value.name == "logits").shape[-1:]
        self.vocabulary = size[0] if size and isinstance(size[0], int) else None
        metadata = session.get_modelmeta().custom_metadata_map
        self._long_rope_after = metadata_count(metadata, LONG_ROPE_AFTER, 0)
        self._logits = ["logits", *([VERIFY_LOGITS] if VERIFY_LOGITS in outputs else [])]
        self.verify_tokens = 0 if self._static or not self.can_rewind else metadata_count(metadata, VERIFY_TOKENS, 0)
        every = next(value for value in session.get_outputs() if value.name == "logits").shape[1:2] != [1]
        several = metadata_count(metadata, VERIFY_TOKENS, 1) if VERIFY_LOGITS in outputs else 1
        self.logits_per_run = PROMPT_CHUNK if every else several
        same = metadata_count(metadata, SAME_BITS_TOKENS, 0) if provider.name == "cpu" else 0
        self.same_bits_limit = min(self.verify_tokens, same)
        if self._long_rope_after and not self.can_rewind:
            raise InputError("its rotation has two sets of factors (LongRoPE), and its layers states: no run does both")
        self.length = self.capacity = 0
        self._past: dict[str, ort.OrtValue] = {}
        self.start(0)

    @classmethod
    def load(
        cls, path: Path, threads: int = 0, library: bool = True, provider: Provider = CPU, *, static_steps: bool = False
    ) -> Decoder:
        """Load an exported model. `library=False` leaves the operator to the function inside the model.

        Raises InputError, with ONNX Runtime's reason, for a file that is missing or is no such model, and where ONNX
        Runtime lacks `provider`; DualBinaryError where it cannot use it.
        """
        import onnxruntime as ort  # as above

        check_model_file(path)
        if library:  # a function inside the model has the meaning that the file was written for
            check_operator_versions(opset_imports(path), path)
        providers = provider.session_providers()
        options = session_options(threads, library)
        try:
            # Without the fallback, which would print its reasons and continue without the provider.
            session = ort.InferenceSession(str(path), options, providers=providers, enable_fallback=0)
        except Exception as error:  # ONNX Runtime's own exceptions share no narrower base
            raise explained(path, error) from error
        provider.check(session)
        try:
            return cls(session, DecoderConfig.read(path.parent), provider, static_steps)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    @property
    def cache_bytes_per_token(self) -> int:
        """Memory that one token takes in the cache, all layers together; states take none, as their size is fixed."""
        return sum(tensor.bytes_per_token for tensor in self._cache)

    def start(self, capacity: int) -> None:
        """Begin a new sequence that will have at most `capacity` tokens, prompt included.

        Raises InputError where that is more than the model's context.
        """
        if capacity > self.config.context_length:
            raise InputError(f"{capacity} tokens do not fit the context of {self.config.context_length}")
        self.length = 0
        self._tokens: list[int] = []
        if self._static and self._past and capacity == self.capacity:
            return  # the captured graph reads and writes these very buffers
        self.capacity = capacity
        self._mask = np.ones((1, capacity), np.int64)
        # The old cache and what refers to it go first, so that both never take memory at once.
        self._static_step: StaticStep | None = None
        self._binding = self.session.io_binding()
        self._past = {}
        self._forget()
        for name in self._logits:
            self._binding.bind_output(name)
        if not self.config.share_buffer or not capacity:
            return
        shared = [(tensor.past, tensor.present, self._past[tensor.past]) for tensor in self._cache if tensor.grows]
        for past, present, value in shared:
            self._binding.bind_ortvalue_input(past, value)
            self._binding.bind_ortvalue_output(present, value)
        if self._static:
            self._static_step = StaticStep(self.session, self.provider, shared, capacity)

    def step(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Append `tokens` (at least one) and return the logits [vocabulary] that follow the last of them.

        Raises InputError where they do not fit, or the model has no such token.
        """
        logits: npt.NDArray[np.floating] = np.empty(0, np.float32)
        for rows in self._feed(self._accept(tokens), PROMPT_CHUNK):
            logits = rows[-1] if len(rows) else logits
        return logits.astype(np.float32, copy=False)

    def step_each(self, tokens: Sequence[int]) -> Iterator[npt.NDArray[np.float32]]:
        """Append `tokens`, and yield the logits [n, vocabulary] after each of them, a run's at a time.

        A model that gives the logits of the last token alone runs once for each token. All have to be taken before the
        next call. Raises InputError as `step` does, and where such a model would have to read a sequence of LongRoPE
        anew.
        """
        accepted = self._accept(tokens)
        again = len(accepted) - len(tokens)  # of these the logits have been given
        # A piece that is to be rotated as a longer sequence has one token more.
        switch = self._long_rope_after
        size = self.logits_per_run - (0 < switch < self.length + len(accepted) and self.length <= switch)
        if not size:
            raise InputError(
                f"the factors of its rotation change after {switch} tokens, and the model gives the "
                "logits of the last token alone; export it anew with --logits all"
            )
        for rows in self._feed(accepted, min(size, PROMPT_CHUNK)):
            kept, again = rows[again:], max(again - len(rows), 0)
            if len(kept):
                yield kept.astype(np.float32, copy=False)

    def _accept(self, tokens: Sequence[int]) -> list[int]:
        """The tokens to feed: `tokens`, behind those before them where the long factors of LongRoPE begin to count."""
        accepted = [int(token) for token in tokens]
        total = self.length + len(accepted)
        if total > self.capacity:
            raise InputError(f"{total} tokens, but the sequence was started for {self.capacity}")
        self.check(accepted)
        switch = self._long_rope_after
        if switch and self.length <= switch:
            self._tokens += accepted
            if self.length and total > switch:
                accepted = self._tokens
                self._forget()
        return accepted

    def _feed(self, tokens: list[int], size: int) -> Iterator[npt.NDArray[np.floating]]:
        """Run the model over `tokens`, `size` at a time, and yield the logits that each run gives of its tokens."""
        switch, total = self._long_rope_after, self.length + len(tokens)
        for first in range(0, len(tokens), size):
            piece = np.asarray([tokens[first : first + size]], np.int64)
            below = self.length + piece.shape[1] <= switch < total
            logits = self._run(piece, reach=switch if below else None)
            yield logits[:-1] if below else logits

    @property
    def verifies(self) -> bool:
        """Whether the model can say what follows each of several tokens, and take back those that are wrong."""
        return self.verify_tokens > 1

    @property
    def why_not(self) -> str:
        """Why `verifies` is false, and the way out."""
        if not self.can_rewind:
            return "layers of the model carry states, so a wrong guess could not be taken back"
        if self._static:
            return "steps keep their shapes (cuda_graph); load the model without"
        return (
            "the model gives the logits of the last token alone; export it anew for CPUs, or with --logits all and "
            "--verify-tokens 8"
        )

    @property
    def verify_limit(self) -> int:
        """Tokens that `verify` takes next at most; 0 where the model gives the logits of the last token alone."""
        switch = self._long_rope_after
        end = min(switch, self.capacity) if switch and self.length <= switch else self.capacity
        return min(self.verify_tokens, end - self.length)

    @property
    def can_rewind(self) -> bool:
        """False for a model that carries states: no token of a sequence can be taken back."""
        return all(tensor.grows for tensor in self._cache)

    def verify(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Append `tokens` and return the logits [len(tokens), vocabulary] that follow each of them.

        Raises InputError for none or more than `verify_limit`, and where the model has no such token.
        """
        tokens = [int(token) for token in tokens]
        if not self.verifies:
            raise InputError("nothing can be verified: " + self.why_not)
        if not 0 < len(tokens) <= self.verify_limit:
            raise InputError(f"{len(tokens)} tokens to verify, expected 1 to {self.verify_limit}")
        self.check(tokens)
        if self._long_rope_after and self.length <= self._long_rope_after:
            self._tokens += tokens
        return self._run(np.asarray([tokens], np.int64)).astype(np.float32, copy=False)

    def rewind(self, length: int) -> None:
        """Forget all tokens but the first `length`.

        Raises InputError where there are fewer; where the model carries states, which do not go back; and where that
        leads from the long factors of LongRoPE to the short ones.
        """
        if length == self.length:
            return
        if not 0 <= length < self.length:
            raise InputError(f"cannot go back to {length} of {self.length} tokens")
        if not self.can_rewind:
            raise InputError("layers of this model carry states, which cannot go back by a token")
        if self._long_rope_after and length <= self._long_rope_after < self.length:
            raise InputError(f"the factors of its rotation changed after {self._long_rope_after} tokens")
        for tensor in self._handed:
            self._past[tensor.past] = self._first(self._past[tensor.past], length)
        del self._tokens[length:]
        self.length = length

    def check(self, tokens: Sequence[int]) -> None:
        """Raise InputError for an id that the model's table lacks, where its length is known."""
        if self.vocabulary is None:
            return
        for token in tokens:
            if not 0 <= token < self.vocabulary:
                raise InputError(
                    f"token id {token}: expected 0 to {self.vocabulary - 1}, the rows of the model's table; use the "
                    "tokenizer that the model was trained with, or resize the model's embeddings before the export"
                )

    def _forget(self) -> None:
        """Begin with empty caches and states of zeros. A buffer is left as it is: what it held is never read."""
        self.length = 0
        for tensor in self._handed if self._past else self._cache:
            self._past[tensor.past] = tensor.empty(self.capacity if self.config.share_buffer else 0, self.provider)

    def _run(self, ids: npt.NDArray[np.int64], reach: int | None = None) -> npt.NDArray[np.floating]:
        """The logits [n, vocabulary] after the last of `ids`, or each of them where the model gives those.

        With `reach`, positions up to it count as taken in the choice of rotary factors.
        """
        total = self.length + ids.shape[1]
        try:
            if self._static_step is not None and ids.shape[1] == 1 and reach is None:
                logits = self._static_step.run(int(ids[0, 0]), self.length)[None]
            else:
                logits = self._run_bound(ids, total, reach)
        except Exception as error:  # as above
            raise DualBinaryError(f"ONNX Runtime failed while running the model: {first_line(error)}") from error
        self.length = total
        return logits

    def _run_bound(self, ids: npt.NDArray[np.int64], total: int, reach: int | None) -> npt.NDArray[np.floating]:
        binding = self._binding
        positions = np.arange(self.length, total, dtype=np.int64)[None]
        if reach is not None:  # one token more, which none of the others sees
            ids, positions = np.append(ids, [[0]], axis=1), np.append(positions, [[reach]], axis=1)
            total += 1
        binding.bind_cpu_input("input_ids", ids)
        binding.bind_cpu_input("attention_mask", self._mask[:, :total])
        if self._has_positions:
            binding.bind_cpu_input("position_ids", positions)
        for name in self._logits:  # again, or the run would write into those of the last one
            binding.bind_output(name)
        for tensor in self._handed:
            binding.bind_ortvalue_input(tensor.past, self._past[tensor.past])
            binding.bind_output(tensor.present, self.provider.name, self.provider.device)
        self.session.run_with_iobinding(binding, graph_options(NO_CAPTURE) if self.provider.cuda_graph else None)
        outputs = binding.get_outputs()  # in the order in which they were bound first
        for tensor, value in zip(self._handed, outputs[len(outputs) - len(self._handed) :], strict=True):
            self._past[tensor.past] = value if reach is None else self._first(value, total - 1)
        return outputs[len(self._logits) - 1].numpy()[0]

    def _first(self, cache: ort.OrtValue, length: int) -> ort.OrtValue:
        """Keys or values of a growing cache for its first `length` tokens."""
        import onnxruntime as ort  # as above

        kept = np.ascontiguousarray(cache.numpy()[:, :, :length])
        return ort.OrtValue.ortvalue_from_numpy(kept, self.provider.name, self.provider.device)


def _check_names(session: ort.InferenceSession) -> None:
    """Raise InputError for a model without the inputs and the output of a decoder."""
    inputs = {value.name for value in session.get_inputs()}
    for name in sorted({"input_ids", "attention_mask"} - inputs):
        raise InputError(f"not a decoder: it has no input {name}; give a model that python -m exporter made")
    if "logits" not in {value.name for value in session.get_outputs()}:
        raise InputError("not a decoder: it has no output logits; give a model that python -m exporter made")
