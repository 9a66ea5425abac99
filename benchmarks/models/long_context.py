"""Tokens a second behind long contexts, by the type of keys and values, beside llama.cpp and GroupQueryAttention.

    python -m benchmarks.models.long_context [--contexts 256 2048 8192 32768] [--threads 1 2] [--rounds 5]
        [--clock wall|cpu] [--layers 4] [--work DIR] [--json]

The model has the shape of Llama 3.2 1B (32 query heads, 8 heads of 64 for keys and values) with four of its 16 layers
and random weights in Q4_0, a GGUF file that both engines read. Contexts are filled, not computed
(benchmarks/models/filled_cache.py), so that a prompt of 32768 tokens costs no hour. Each round starts every variant
anew, in a process of its own; the table has medians of the rounds. llama.cpp runs with flash attention, without which
it has no quantized caches. `GroupQueryAttention` is the export with --fuse none: ONNX Runtime's own attention, which
onnxruntime-genai runs too. `--clock cpu` counts processor time, which other work on the machine changes little: for
one thread alone, as threads that wait spin. llama.cpp is that of `make bench-peers`.
"""

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.common import REPOSITORY
from benchmarks.common.machine import OtherLoad
from benchmarks.common.synthetic_llama import LlamaShape
from benchmarks.common.timing import in_turn
from benchmarks.models.random_gguf import write_random
from benchmarks.models.variants import finish, python_of
from dualbinary import DualBinaryError, InputError
from dualbinary.cli.console import add_common_options, run

__all__ = ["SHAPE", "VARIANTS", "main"]

SHAPE = LlamaShape(layers=4, hidden=2048, intermediate=8192, vocabulary=32000, heads=32, kv_heads=8, tied=False)
_ROOM = 64  # tokens behind the longest context
_CLOCKS = ("wall", "cpu")


@dataclass(frozen=True)
class Variant:
    """A row: an engine, the type of its cache, and the options of the export that makes its file."""

    name: str
    engine: str
    cache: str
    options: tuple[str, ...] = ()


VARIANTS = (
    Variant("dualbinary float32", "dualbinary", "f32"),
    Variant("dualbinary float16", "dualbinary", "fp16", ("--kv-cache", "fp16")),
    Variant("dualbinary int8", "dualbinary", "int8", ("--kv-cache", "int8")),
    Variant("GroupQueryAttention float32", "dualbinary", "nodes", ("--fuse", "none")),
    Variant("llama.cpp f16", "llama.cpp", "f16"),
    Variant("llama.cpp q8_0", "llama.cpp", "q8_0"),
)


def _files(work: Path, shape: LlamaShape, variants: list[Variant]) -> dict[Variant, Path]:
    """The file of each variant, made below `work` where it is missing; models of other sizes have folders of theirs."""
    work = work / f"{shape.layers}-layers-{shape.context}-tokens"
    source = work / "gguf" / "model.gguf"
    if not source.exists():
        work.mkdir(parents=True, exist_ok=True)

        def make_source(scratch: Path) -> None:
            scratch.mkdir()
            write_random(scratch / source.name, "Q4_0", shape)

        finish(source.parent, make_source)
    files = {}
    for variant in variants:
        files[variant] = source
        if variant.engine == "dualbinary":
            files[variant] = work / variant.cache / "model.onnx"
            if not files[variant].exists():
                finish(work / variant.cache, lambda scratch, v=variant: _export(source, scratch / "model.onnx", v))
    return files


def _export(source: Path, path: Path, variant: Variant) -> None:
    words = [sys.executable, "-m", "exporter", str(source), str(path), "--quiet", *variant.options]
    done = subprocess.run(words, check=False, capture_output=True, text=True, cwd=REPOSITORY)
    if done.returncode:
        raise DualBinaryError(f"the export of {variant.name} failed: {done.stderr.strip().splitlines()[-1:]}")


def _measured(variant: Variant, path: Path, threads: int, args: argparse.Namespace) -> dict[int, float]:
    """Seconds of a token by context, of one process."""
    command = [str(python_of(variant.engine)), "-m", "benchmarks.models.filled_cache", variant.engine, str(path)]
    command += ["--cache", variant.cache, "--threads", str(threads), "--contexts", *map(str, args.contexts)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=REPOSITORY)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise DualBinaryError(f"{variant.name}: {reason[0]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return {int(context): seconds[_CLOCKS.index(args.clock)] for context, seconds in found.items()}


def _command(args: argparse.Namespace) -> None:
    for name in ("rounds", "layers"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name}: expected at least 1, got {getattr(args, name)}")
    if args.clock == "cpu" and args.threads != [1]:
        raise InputError("--clock cpu counts threads that spin while they wait; use it with --threads 1")
    shape = replace(SHAPE, layers=args.layers, context=max(args.contexts) + _ROOM)
    variants = [variant for variant in VARIANTS if args.peers or variant.engine == "dualbinary"]
    files = _files(args.work, shape, variants)
    rows = []
    with OtherLoad() as load:
        for threads in args.threads:
            rounds: dict[str, list[dict[int, float]]] = {variant.name: [] for variant in variants}
            for index in range(args.rounds):
                for variant in in_turn(variants, index):
                    rounds[variant.name].append(_measured(variant, files[variant], threads, args))
            for name, found in rounds.items():
                seconds = {context: statistics.median(each[context] for each in found) for context in args.contexts}
                rows.append({"variant": name, "threads": threads, "seconds": seconds})
    if args.json:
        facts = {"layers": shape.layers, "context": shape.context, "clock": args.clock, "other_cores": load.cores}
        print(json.dumps({**facts, "rows": rows}))
        return
    print(f"| threads | keys and values | {' | '.join(f'{context}' for context in args.contexts)} |")
    print(f"| ---: | --- |{' ---: |' * len(args.contexts)}")
    for row in rows:
        speeds = " | ".join(f"{1 / seconds:.1f}" for seconds in row["seconds"].values())
        print(f"| {row['threads']} | {row['variant']} | {speeds} |")
    print(
        f"\ntokens a second by context, {shape.layers} layers, {args.clock} clock; other processes: {load.cores} cores"
    )


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.models.long_context", description="Decoding behind long contexts."
    )
    parser.add_argument("--contexts", type=int, nargs="+", default=[256, 2048, 8192, 32768], metavar="N")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="T", help="default 1 2")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="default 5")
    parser.add_argument("--clock", choices=_CLOCKS, default="wall", help="default wall")
    parser.add_argument("--layers", type=int, default=SHAPE.layers, metavar="L", help="default 4")
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="leave llama.cpp out")
    parser.add_argument(
        "--work", type=Path, default=Path("out/bench/long_context"), metavar="DIR", help="for the files"
    )
    add_common_options(parser)
    return run(parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
