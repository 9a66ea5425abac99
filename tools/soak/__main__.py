"""`python -m tools.soak OUT.onnx`: a model under load for an hour, or as long as is asked.

    python -m tools.soak OUT.onnx [--seconds 3600] [--threads 8] [--only LOAD ...] [--json]

Each file of this room is a load and has an equal part of the time: one session that all threads run, sessions that come
and go, ragged batches with jobs that are canceled, sequences up to the end of the context, and a server whose clients
vanish. Every answer is held against the one that its request gets alone, and memory is watched. An answer that differs,
an error, or memory that grows makes the exit code 1. Leaks: `python -m tools.soak.leaks`. Linux only.
"""

import argparse
import importlib
import json
import pkgutil
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dualbinary import DualBinaryError, InputError
from dualbinary.cli import console
from runtime_ext.decoder import Decoder
from tools import soak
from tools.soak.memory import Growth, Memory, growth
from tools.soak.task import Tally, Task, answer, make_requests

__all__ = ["main"]

ROOM = ("__main__", "leaks", "memory", "task", "threads")  # files that are no loads
TOKENS = 512  # that the caches of most loads have room for
SAMPLES = 400  # of memory in a load


@dataclass(frozen=True)
class Row:
    """What came of a load. Latencies are whole answers, in seconds, at these percentiles."""

    load: str
    seconds: float
    answers: int
    tokens: int
    wrong: int
    errors: list[str]
    other: dict[str, int]
    latency: dict[str, float]
    memory: Growth | None  # None for a run too short to say

    @property
    def grew(self) -> bool:
        """Memory is known not to be constant."""
        return self.memory is not None and not self.memory.constant

    @property
    def passed(self) -> bool:
        """No wrong answer, no error, constant memory."""
        return bool(self.answers) and not self.wrong and not self.other.get("errors") and not self.grew


def names() -> list[str]:
    """Return the files of this room that are loads."""
    return sorted({module.name for module in pkgutil.iter_modules(soak.__path__)} - set(ROOM))


def put_under(load: Any, task: Task, seconds: float, most: int | None) -> Row:
    """Run one load for so many seconds, or requests."""
    begin = time.monotonic()
    tally = Tally(begin + seconds, most)
    # Every thread has filled its cache once: what memory there is then, is all.
    memory = Memory(min(max(seconds / SAMPLES, 0.02), 1.0), lambda: len(tally.seconds) >= 2 * task.threads)
    try:
        load.run(task, tally, memory)
    finally:
        memory.stop()
    percentiles = {f"p{rank}": float(np.percentile(tally.seconds or [0.0], rank)) for rank in (50, 95, 99, 100)}
    return Row(
        load.NAME,
        time.monotonic() - begin,
        len(tally.seconds),
        tally.tokens,
        tally.wrong,
        tally.errors,
        tally.other,
        percentiles,
        growth(memory.samples),
    )


def make_task(args: argparse.Namespace) -> Task:
    """Choose the requests, and answer each alone. Raises InputError for a model that cannot be used."""
    decoder = Decoder.load(args.model, 1, args.library)
    most = decoder.config.context_length
    context = args.context or most
    if not 4 <= context <= most:
        raise InputError(f"--context: expected 4 to the {most} of the model, got {context}")
    room = min(TOKENS, context)
    requests = make_requests(decoder.vocabulary or 2, room, args.distinct, args.seed)
    expected = tuple(answer(decoder, request) for request in requests)
    return Task(args.model, args.threads, context, room, args.library, requests, expected)


def command(args: argparse.Namespace) -> None:
    """Run the loads one after another and print the table."""
    for name in ("threads", "distinct", *(["requests"] if args.requests is not None else [])):
        if getattr(args, name) < 1:
            raise InputError(f"--{name}: expected at least 1, got {getattr(args, name)}")
    if args.seconds <= 0:
        raise InputError(f"--seconds: expected above 0, got {args.seconds:g}")
    chosen = args.only or names()
    task = make_task(args)
    rows: list[Row] = []
    for name in chosen:
        load = importlib.import_module(f"tools.soak.{name}")
        rows.append(put_under(load, task, args.seconds / len(chosen), args.requests))
        if not args.json:
            print(_line(rows[-1]), flush=True)
    if args.json:
        print(json.dumps({"model": str(args.model), "loads": [asdict(row) | {"passed": row.passed} for row in rows]}))
    failed = [row for row in rows if not row.passed]
    if failed:
        raise DualBinaryError("; ".join(f"{row.load}: {_why(row)}" for row in failed))


def _line(row: Row) -> str:
    latency = ", ".join(f"{name} {1e3 * value:.0f}" for name, value in row.latency.items())
    other = "".join(f", {count} {name}" for name, count in sorted(row.other.items()))
    return (
        f"{row.load:<16} {row.seconds:7.1f} s {row.answers:7d} answers {row.tokens:8d} tokens, {row.wrong} wrong{other}"
        f"; ms an answer: {latency}; {_memory(row)}"
    )


def _memory(row: Row) -> str:
    if row.memory is None:
        return "too short to say something about memory"
    early, late, peak = (each / 1e6 for each in (row.memory.early, row.memory.late, row.memory.peak))
    return f"memory {early:.1f} -> {late:.1f} MB, at most {peak:.1f}"


def _why(row: Row) -> str:
    if row.errors:
        return row.errors[0]
    if row.wrong:
        return f"{row.wrong} of {row.answers} answers are not those of a request alone"
    if not row.answers:
        return "no answer came; give more --seconds"
    return f"it grew: {_memory(row)}"


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.soak", description="A model under load: equal answers, constant memory, no error."
    )
    parser.add_argument("model", type=Path, metavar="OUT.onnx", help="an exported model")
    parser.add_argument("--seconds", type=float, default=3600, metavar="S", help="of all loads together (default 3600)")
    parser.add_argument("--requests", type=int, metavar="N", help="of a load at most (default: as time allows)")
    parser.add_argument("--threads", type=int, default=8, metavar="T", help="that ask at once (default 8)")
    parser.add_argument(
        "--context", type=int, default=0, metavar="N", help="tokens of the longest (default: the model's)"
    )
    parser.add_argument("--distinct", type=int, default=24, metavar="N", help="different requests (default 24)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the requests (default 0)")
    parser.add_argument("--only", nargs="+", choices=names(), metavar="LOAD", help=f"some of: {', '.join(names())}")
    parser.add_argument("--no-library", dest="library", action="store_false", help="by the function inside the model")
    console.add_common_options(parser)
    return console.run(parser, command, argv)


if __name__ == "__main__":
    sys.exit(main())
