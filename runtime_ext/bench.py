"""`python -m runtime_ext bench`: measure how fast a model runs here.

    python -m runtime_ext bench OUT.onnx [--prompt-length 128] [--tokens 64] [--repeats 5] [--threads N] [--json]
    python -m runtime_ext bench OUT.onnx --provider cuda [--device N] [--cuda-graph]

Each repeat reads a prompt of random tokens and then decodes `--tokens` tokens one by one; the first one only warms up.
Speeds are medians over the rest. Peak memory is that of the whole process, Python and ONNX Runtime included, without
that of a GPU.
"""

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from dualbinary.cli.options import option, options_from
from runtime_ext.decoder import Decoder, LoadOptions
from runtime_ext.providers import CPU, Provider

__all__ = ["EXAMPLES", "OPTIONS", "SEED", "TOKEN_RANGE", "BenchOptions", "Measurement", "measure", "peak_rss_bytes"]

SEED = 0
# The ids of the prompt: below any vocabulary in use, above most special tokens; smaller in smaller vocabularies.
TOKEN_RANGE = (100, 200)
VM_HIGH_WATER = "VmHWM:"


@dataclass(frozen=True)
class BenchOptions:
    """Options of the measurement itself."""

    prompt_length: int = option(128, help="prompt tokens", minimum=1)
    tokens: int = option(64, help="tokens to decode", minimum=1)
    repeats: int = option(5, help="measured repeats", minimum=1)


OPTIONS = (LoadOptions, BenchOptions, Provider)
EXAMPLES = """\
examples:
  dualbinary bench OUT.onnx
  dualbinary bench OUT.onnx --prompt-length 1024 --tokens 128 --threads 2 --json
"""


@dataclass(frozen=True)
class Measurement:
    """Medians over the repeats: speeds in tokens/s, times in seconds, memory in bytes (None where it is not known)."""

    prompt_length: int
    tokens: int
    threads: int
    provider: str
    device: int
    cuda_graph: bool
    load_seconds: float
    prompt_tokens_per_second: float
    decode_tokens_per_second: float
    peak_rss_bytes: int | None


def measure(
    path: Path, prompt_length: int, tokens: int, repeats: int, threads: int, library: bool, provider: Provider = CPU
) -> Measurement:
    """Load the model at `path` and time it. Raises InputError as Decoder.load and Decoder.start do."""
    began = time.perf_counter()
    decoder = Decoder.load(path, threads, library, provider)
    load_seconds = time.perf_counter() - began
    ids = np.random.default_rng(SEED).integers(*TOKEN_RANGE, size=prompt_length + tokens)
    ids = (ids % (decoder.vocabulary or TOKEN_RANGE[1])).tolist()
    prompt_times, decode_times = [], []
    for _ in range(repeats + 1):
        decoder.start(prompt_length + tokens)
        began = time.perf_counter()
        decoder.step(ids[:prompt_length])
        middle = time.perf_counter()
        for token in ids[prompt_length:]:
            decoder.step([token])
        prompt_times.append(middle - began)
        decode_times.append(time.perf_counter() - middle)
    return Measurement(
        prompt_length=prompt_length,
        tokens=tokens,
        threads=threads,
        provider=provider.name,
        device=provider.device,
        cuda_graph=provider.cuda_graph,
        load_seconds=load_seconds,
        prompt_tokens_per_second=prompt_length / statistics.median(prompt_times[1:]),
        decode_tokens_per_second=tokens / statistics.median(decode_times[1:]),
        peak_rss_bytes=peak_rss_bytes(),
    )


def peak_rss_bytes() -> int | None:
    """Peak resident memory of this process in bytes; None if the system does not report it."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(VM_HIGH_WATER):
                return int(line.split()[1]) * 1024
    return None


def command(args: argparse.Namespace) -> None:
    """Run the command."""
    options, load = options_from(args, BenchOptions), options_from(args, LoadOptions)
    counts = (options.prompt_length, options.tokens, options.repeats, load.threads)
    result = measure(args.model, *counts, load.library, options_from(args, Provider))
    if args.json:
        print(json.dumps({"model": str(args.model), **asdict(result)}))
        return
    print(f"load     {result.load_seconds:8.2f} s")
    print(f"prompt   {result.prompt_tokens_per_second:8.1f} tokens/s ({result.prompt_length} tokens)")
    print(f"decode   {result.decode_tokens_per_second:8.1f} tokens/s ({result.tokens} tokens)")
    if result.peak_rss_bytes is not None:
        print(f"peak RSS {result.peak_rss_bytes / 1e6:8.0f} MB")
