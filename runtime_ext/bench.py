"""`python -m runtime_ext bench`: how fast a model runs here.

    python -m runtime_ext bench OUT.onnx [--prompt-length 128] [--tokens 64] [--repeats 5] [--threads N] [--json]
    python -m runtime_ext bench OUT.onnx --provider cuda [--device N] [--cuda-graph]

Each repeat reads a prompt of random tokens and then feeds `--tokens` tokens one by one; the first repeat only warms up.
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

from dualbinary import InputError
from runtime_ext.decoder import Decoder
from runtime_ext.providers import CPU, Provider, add_provider_options, provider_of

__all__ = ["SEED", "TOKEN_RANGE", "Measurement", "measure", "peak_rss_bytes"]

SEED = 0
# The ids of the prompt: below any vocabulary in use, above most special tokens.
TOKEN_RANGE = (100, 200)
VM_HIGH_WATER = "VmHWM:"


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
    path: Path,
    prompt_length: int,
    tokens: int,
    repeats: int,
    threads: int,
    library: bool,
    provider: Provider = CPU,
) -> Measurement:
    """Load the model at `path` and time it. Raises InputError as Decoder.load and Decoder.start do."""
    began = time.perf_counter()
    decoder = Decoder.load(path, threads, library, provider)
    load_seconds = time.perf_counter() - began
    ids = np.random.default_rng(SEED).integers(*TOKEN_RANGE, size=prompt_length + tokens).tolist()
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
    """The most memory that this process has had resident, or None where the system does not tell."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(VM_HIGH_WATER):
                return int(line.split()[1]) * 1024
    return None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    parser.add_argument("--prompt-length", type=int, default=128, metavar="N", help="prompt tokens (default 128)")
    parser.add_argument("--tokens", type=int, default=64, metavar="N", help="tokens to decode (default 64)")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="measured repeats (default 5)")
    add_provider_options(parser)


def command(args: argparse.Namespace) -> None:
    """Run the command."""
    for name in ("prompt_length", "tokens", "repeats"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(args, name)}")
    counts = (args.prompt_length, args.tokens, args.repeats, args.threads)
    result = measure(args.model, *counts, args.library, provider_of(args))
    if args.json:
        print(json.dumps({"model": str(args.model), **asdict(result)}))
        return
    print(f"load     {result.load_seconds:8.2f} s")
    print(f"prompt   {result.prompt_tokens_per_second:8.1f} tokens/s ({result.prompt_length} tokens)")
    print(f"decode   {result.decode_tokens_per_second:8.1f} tokens/s ({result.tokens} tokens)")
    if result.peak_rss_bytes is not None:
        print(f"peak RSS {result.peak_rss_bytes / 1e6:8.0f} MB")
