"""One round of one engine in this process: load, prompts, decoding; a JSON object on standard output.

    python -m benchmarks.models.engine dualbinary|llama.cpp|genai FILE [--threads T] [--prompts N ...] [--tokens N]

benchmarks.models.variants starts it, with the Python that has the engine. Nothing but NumPy and the engine is imported,
so that peak memory is the engine's. All engines get the same tokens, and every token is waited for.
"""

import argparse
import ctypes
import importlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

_SEED = 0
_TOKEN_RANGE = (100, 200)  # below any vocabulary in use, above most special tokens
_WARM_UP = 8


class Engine(Protocol):
    """A loaded model and one sequence."""

    def start(self, capacity: int) -> None:
        """Forget the sequence; the next one has at most `capacity` tokens."""

    def feed(self, tokens: Sequence[int]) -> np.ndarray:
        """Append tokens; return the logits [vocabulary] of the last one."""
        ...


class DualBinary:
    """This project's decoder in ONNX Runtime; `options` are those of runtime_ext.providers.Provider."""

    def __init__(self, path: Path, threads: int, _capacity: int, options: dict[str, Any]) -> None:
        decoder = importlib.import_module("runtime_ext.decoder")
        providers = importlib.import_module("runtime_ext.providers")
        provider = providers.Provider(options.get("provider", "cpu"), cuda_graph=options.get("cuda_graph", False))
        self._decoder = decoder.Decoder.load(path, threads, provider=provider)

    def start(self, capacity: int) -> None:
        """See Engine."""
        self._decoder.start(capacity)

    def feed(self, tokens: Sequence[int]) -> np.ndarray:
        """See Engine."""
        return self._decoder.step(tokens)


class LlamaCpp:
    """llama.cpp through its C interface, which llama-cpp-python exposes: no sampling, no Python in between."""

    def __init__(self, path: Path, threads: int, capacity: int, options: dict[str, Any]) -> None:
        self._api = llama_cpp = importlib.import_module("llama_cpp")
        self._quiet = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self._quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        model_options = llama_cpp.llama_model_default_params()
        model_options.use_extra_bufts = options.get("repack", True)
        model = llama_cpp.llama_model_load_from_file(str(path).encode(), model_options)
        if not model:
            raise SystemExit(f"{path}: llama.cpp cannot load it")
        context_options = llama_cpp.llama_context_default_params()
        context_options.n_ctx = capacity
        context_options.n_threads = context_options.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(model, context_options)
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))

    def start(self, _capacity: int) -> None:
        """See Engine."""
        self._api.llama_memory_clear(self._api.llama_get_memory(self._context), False)

    def feed(self, tokens: Sequence[int]) -> np.ndarray:
        """See Engine."""
        array = (ctypes.c_int32 * len(tokens))(*tokens)
        if self._api.llama_decode(self._context, self._api.llama_batch_get_one(array, len(tokens))):
            raise SystemExit("llama_decode failed")
        return np.ctypeslib.as_array(self._api.llama_get_logits_ith(self._context, -1), (self._vocabulary,))


class Genai:
    """onnxruntime-genai; `path` lies in the model's directory."""

    def __init__(self, path: Path, threads: int, _capacity: int, _options: dict[str, Any]) -> None:
        self._api = importlib.import_module("onnxruntime_genai")
        config = self._api.Config(str(path.parent))
        session_options = {"intra_op_num_threads": threads, "inter_op_num_threads": 1}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": session_options}}}))
        self._model = self._api.Model(config)

    def start(self, capacity: int) -> None:
        """See Engine."""
        parameters = self._api.GeneratorParams(self._model)
        # A minimal length keeps the end-of-text token from ending the sequence.
        parameters.set_search_options(max_length=capacity, min_length=capacity)
        self._generator = self._api.Generator(self._model, parameters)

    def feed(self, tokens: Sequence[int]) -> np.ndarray:
        """See Engine."""
        self._generator.append_tokens(np.asarray(tokens, np.int32))
        return self._generator.get_logits()[0, -1]


ENGINES = {"dualbinary": DualBinary, "llama.cpp": LlamaCpp, "genai": Genai}
MODULES = {"dualbinary": "runtime_ext.decoder", "llama.cpp": "llama_cpp", "genai": "onnxruntime_genai"}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Measure one round: times in seconds, memory in bytes."""
    importlib.import_module(MODULES[args.engine])
    bare = memory("VmRSS")
    capacity = max(args.prompts) + args.tokens
    begin = time.perf_counter()
    engine: Engine = ENGINES[args.engine](args.file, args.threads, capacity, json.loads(args.options))
    load_seconds = time.perf_counter() - begin
    loaded = memory("VmHWM")
    tokens = np.random.default_rng(_SEED).integers(*_TOKEN_RANGE, size=capacity).tolist()
    engine.start(capacity)
    for first in range(_WARM_UP):
        engine.feed(tokens[first : first + 1])
    prompts = {}
    for length in args.prompts:
        engine.start(capacity)
        prompts[str(length)] = _seconds(engine, [tokens[:length]])
    engine.start(capacity)
    top = int(engine.feed(tokens[: args.prompts[0]]).argmax())
    following = tokens[args.prompts[0] : args.prompts[0] + args.tokens]
    token = _seconds(engine, [[token] for token in following])
    return {
        "load_seconds": load_seconds,
        "prompt_seconds": {length: seconds for length, (seconds, _) in prompts.items()},
        "prompt_cpu_seconds": {length: seconds for length, (_, seconds) in prompts.items()},
        "token_seconds": token[0] / len(following),
        "token_cpu_seconds": token[1] / len(following),
        "bare_bytes": bare,
        "loaded_bytes": loaded,
        "peak_bytes": memory("VmHWM"),
        "top_token": top,
    }


def _seconds(engine: Engine, parts: Sequence[Sequence[int]]) -> tuple[float, float]:
    """Time feeding some parts one after the other: by the clock, and of all threads of this process on a CPU."""
    begin, cpu = time.perf_counter(), time.process_time()
    for tokens in parts:
        engine.feed(tokens)
    return time.perf_counter() - begin, time.process_time() - cpu


def memory(field: str) -> int:
    """Read VmRSS, resident bytes of this process, or VmHWM, their peak; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), 0)


def main() -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models.engine", description="Measure one engine once.")
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompts", type=int, nargs="+", default=[128, 512], metavar="N", help="prompt lengths")
    parser.add_argument("--tokens", type=int, default=64, metavar="N", help="decoded one by one after the first prompt")
    parser.add_argument("--options", default="{}", metavar="JSON", help="of the engine")
    print(json.dumps(measure(parser.parse_args())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
