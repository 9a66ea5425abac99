"""Decoding behind caches that are filled, not computed: one engine, one number of threads; JSON on standard output.

    python -m benchmarks.models.filled_cache dualbinary|llama.cpp FILE --contexts N ... [--cache TYPE] [--threads T]

benchmarks.models.long_context starts it, with the Python that has the engine. What is in a cache changes no time, so
random keys and values stand for a prompt that would take minutes. llama.cpp gets them by its state of a sequence: that
of some tokens that were fed, its rows repeated.
"""

import argparse
import ctypes
import importlib
import json
import struct
import sys
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np

__all__ = ["longer_state", "measure"]

_TOKEN = 150
_HEADER = 8  # bytes of a state of llama.cpp in front of what is read here
_SEED = 64  # tokens whose rows llama.cpp's cache repeats
_WARM_UP = 3


class Filled(Protocol):
    """A model and one sequence of any length."""

    def fill(self, length: int) -> None:
        """Let the sequence have `length` tokens."""

    def step(self) -> None:
        """Append a token."""


class DualBinary:
    """A session of an export, with the library; the cache is the model's type, whichever that is."""

    def __init__(self, path: Path, threads: int, capacity: int, _cache: str) -> None:
        ort = importlib.import_module("onnxruntime")
        options = importlib.import_module("runtime_ext.decoder").session_options(threads)
        self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._binding = self._session.io_binding()
        self._mask = np.ones((1, capacity), np.int64)
        self._positions = "position_ids" in {value.name for value in self._session.get_inputs()}
        random = np.random.default_rng(0)
        self._values = []  # what is bound has to live
        for tensor in importlib.import_module("runtime_ext.cache").cache_tensors(self._session):
            values = np.empty((1, *(capacity if size is None else size for size in tensor.shape)), tensor.dtype)
            if tensor.dtype == np.int8:
                values[...] = random.integers(-127, 128, values[:, :, :1].shape)
                factor = np.array([0.01], "<f4").view(np.int8)
                values[..., -len(factor) :] = factor
            else:
                values[...] = random.normal(0, 1, values.shape[-2:])
            value = ort.OrtValue.ortvalue_from_numpy(values, "cpu", 0)
            self._values.append((values, value))
            self._binding.bind_ortvalue_input(tensor.past, value)
            self._binding.bind_ortvalue_output(tensor.present, value)

    def fill(self, length: int) -> None:
        """See Filled."""
        self._length = length

    def step(self) -> None:
        """See Filled."""
        self._binding.bind_cpu_input("input_ids", np.array([[_TOKEN]]))
        self._binding.bind_cpu_input("attention_mask", self._mask[:, : self._length + 1])
        if self._positions:
            self._binding.bind_cpu_input("position_ids", np.array([[self._length]]))
        self._binding.bind_output("logits")
        self._session.run_with_iobinding(self._binding)
        self._length += 1


class LlamaCpp:
    """llama.cpp with flash attention, which its quantized caches need; `cache` is f32, f16 or q8_0."""

    def __init__(self, path: Path, threads: int, capacity: int, cache: str) -> None:
        self._api = api = importlib.import_module("llama_cpp")
        self._quiet = api.llama_log_callback(lambda *_: None)
        api.llama_log_set(self._quiet, ctypes.c_void_p(0))
        api.llama_backend_init()
        model = api.llama_model_load_from_file(str(path).encode(), api.llama_model_default_params())
        options = api.llama_context_default_params()
        options.n_ctx = capacity
        options.n_threads = options.n_threads_batch = threads
        options.type_k = options.type_v = {"f32": 0, "f16": 1, "q8_0": 8}[cache]
        options.flash_attn_type = 1
        self._context = api.llama_init_from_model(model, options)
        if not self._context:
            raise SystemExit(f"{path}: llama.cpp makes no context with a cache of {cache}")
        self._memory = api.llama_get_memory(self._context)
        for _ in range(_SEED):
            self.step()
        size = api.llama_state_seq_get_size(self._context, 0)
        state = (ctypes.c_uint8 * size)()
        api.llama_state_seq_get_data(self._context, state, size, 0)
        self._state = bytes(state)

    def fill(self, length: int) -> None:
        """See Filled."""
        api, state = self._api, longer_state(self._state, length)
        api.llama_memory_clear(self._memory, True)
        data = (ctypes.c_uint8 * len(state)).from_buffer_copy(state)
        if api.llama_state_seq_set_data(self._context, data, len(state), 0) != len(state):
            raise SystemExit("llama.cpp does not take a state of that length: its form is another one")
        if api.llama_memory_seq_pos_max(self._memory, 0) != length - 1:
            raise SystemExit("llama.cpp took a state, and has another number of tokens")

    def step(self) -> None:
        """See Filled."""
        token = (ctypes.c_int32 * 1)(_TOKEN)
        if self._api.llama_decode(self._context, self._api.llama_batch_get_one(token, 1)):
            raise SystemExit("llama_decode failed")
        self._api.llama_synchronize(self._context)


def longer_state(state: bytes, length: int) -> bytes:
    """The state of one sequence of some tokens with its rows repeated, of `length` tokens. SystemExit for another form.

    It is, in llama.cpp of llama-cpp-python 0.3.36: eight bytes, streams (1), cells, for each cell its position,
    sequences (1) and their number (0); then transposed values (0), layers, and for each layer, of keys and then of
    values: type, bytes of a row, rows.
    """
    streams, cells = struct.unpack_from("<II", state, _HEADER)
    if streams != 1 or cells != _SEED:
        raise SystemExit(f"expected a state of one stream of {_SEED} cells, got {streams} of {cells}")
    parts = [state[:_HEADER], struct.pack("<II", 1, length)]
    parts += [struct.pack("<iII", place, 1, 0) for place in range(length)]
    offset = _HEADER + 8 + cells * 12
    transposed, layers = struct.unpack_from("<II", state, offset)
    if transposed:
        raise SystemExit("expected values that are not transposed")
    parts.append(state[offset : offset + 8])
    offset += 8
    for _ in range(2 * layers):
        _, row = struct.unpack_from("<iQ", state, offset) if offset + 12 <= len(state) else (0, len(state))
        if offset + 12 + cells * row > len(state):
            raise SystemExit(f"expected a state with {2 * layers} tensors of {cells} rows")
        rows = state[offset + 12 : offset + 12 + cells * row]
        parts += [state[offset : offset + 12], (rows * (length // cells + 1))[: length * row]]
        offset += 12 + cells * row
    if offset != len(state):
        raise SystemExit(f"expected a state of {offset} bytes, got {len(state)}")
    return b"".join(parts)


ENGINES = {"dualbinary": DualBinary, "llama.cpp": LlamaCpp}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a token by context, the median of some, by the clock and of the process."""
    engine: Filled = ENGINES[args.engine](args.file, args.threads, max(args.contexts) + args.tokens + 16, args.cache)
    found = {}
    for context in args.contexts:
        engine.fill(context)
        spent = []
        for index in range(_WARM_UP + args.tokens):
            begin, cpu = time.perf_counter(), time.process_time()
            engine.step()
            if index >= _WARM_UP:
                spent.append((time.perf_counter() - begin, time.process_time() - cpu))
        found[str(context)] = np.median(spent, axis=0).tolist()
    return found


def main() -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models.filled_cache")
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--contexts", type=int, nargs="+", required=True, metavar="N")
    parser.add_argument("--cache", default="f16", help="of llama.cpp: f32, f16 or q8_0")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=12)
    print(json.dumps(measure(parser.parse_args())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
