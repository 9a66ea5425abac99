"""A server under load: clients that ask one request after another, for some seconds.

    python -m benchmarks.models.serve_load OUT.onnx [--clients 16] [--seconds 300] [--slots 4] [--threads 2] [--json]

Starts `python -m runtime_ext serve` on a free port of this machine, and streams completions over HTTP: prompts and
answers of different lengths, by a fixed seed. Times are the clients': to the first token from the request on, waiting
included, and from token to token after it. Memory is the resident set of the server, over the run. CPU time is that of
the server, and of processes that are neither it nor its clients. Linux only.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import httpx2
import numpy as np

from benchmarks.common.machine import OtherLoad
from benchmarks.common.served import Served, resident_bytes, served
from dualbinary import DualBinaryError, InputError
from dualbinary.cli.console import add_common_options, run

__all__ = ["Load", "main", "measure"]

TEXT = "the sun and a river of old stones under my house where people walk every day with some bread"
ANSWER_TOKENS = (16, 96)
MEMORY_EVERY = 5.0  # seconds
START_SECONDS = 120


@dataclass
class _Times:
    first: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)
    tokens: int = 0
    answers: int = 0
    refused: int = 0
    errors: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Load:
    """Times in seconds at the 50th and the 95th percentile, memory in bytes; `errors` counts by what they say."""

    clients: int
    seconds: float
    answers: int
    tokens: int
    tokens_per_second: float
    first_token_p50: float
    first_token_p95: float
    token_p50: float
    token_p95: float
    refused: int
    errors: dict[str, int]
    memory_start: int
    memory_middle: int
    memory_end: int
    server_cores: float
    other_cores: float | None


def measure(path: Path, clients: int, seconds: float, words: int, slots: int, threads: int, options: list[str]) -> Load:
    """Start a server of the model at `path`, load it with prompts of up to `words` words, and stop it.

    Raises DualBinaryError where it does not start, or nothing is answered.
    """
    options = ["--slots", str(slots), "--threads", str(threads), *options]
    with served(path, options) as server:
        begin, used = time.monotonic(), _cpu_seconds(server.pid)
        with OtherLoad() as load:
            times, memory = asyncio.run(_run(server, words, clients, seconds))
        cores = (_cpu_seconds(server.pid) - used) / (time.monotonic() - begin)
    if not times.between:
        raise DualBinaryError(f"no answer came: {times.errors[:1]}")
    return Load(
        clients=clients,
        seconds=seconds,
        answers=times.answers,
        tokens=times.tokens,
        tokens_per_second=times.tokens / seconds,
        first_token_p50=statistics.median(times.first),
        first_token_p95=float(np.percentile(times.first, 95)),
        token_p50=statistics.median(times.between),
        token_p95=float(np.percentile(times.between, 95)),
        refused=times.refused,
        errors={message: times.errors.count(message) for message in set(times.errors)},
        memory_start=memory[0],
        memory_middle=memory[len(memory) // 2],
        memory_end=memory[-1],
        server_cores=round(cores, 2),
        other_cores=None if load.cores is None else round(max(0.0, load.cores - cores), 2),
    )


async def _run(server: Served, words: int, clients: int, seconds: float) -> tuple[_Times, list[int]]:
    times, memory = _Times(), []
    end = time.monotonic() + seconds
    limits = httpx2.Limits(max_connections=clients)
    async with httpx2.AsyncClient(base_url=server.url, timeout=seconds + 600, limits=limits) as http:
        asked = [_client(http, server.model, words, number, end, times) for number in range(clients)]
        tasks = [asyncio.create_task(each) for each in asked]
        # The first answers touch pages and fill pools: memory counts from when every client has been answered once.
        while len(times.first) < clients and time.monotonic() < end:
            await asyncio.sleep(0.2)
        while True:
            memory.append(resident_bytes(server.pid))
            done, _ = await asyncio.wait(tasks, timeout=min(MEMORY_EVERY, max(end - time.monotonic(), 0.05)))
            if len(done) == clients:
                break
        for task in tasks:
            task.result()
    return times, memory


async def _client(http: httpx2.AsyncClient, model: str, words: int, number: int, end: float, times: _Times) -> None:
    random = np.random.default_rng(number)
    while time.monotonic() < end:
        text = random.choice(TEXT.split(), int(random.integers(1, words + 1)))
        body = {"model": model, "prompt": " ".join(text), "max_tokens": int(random.integers(*ANSWER_TOKENS))}
        body |= {"stream": True, "temperature": float(number % 2), "seed": number}
        try:
            await _ask(http, body, end, times)
        except httpx2.HTTPError as error:
            times.errors.append(f"{type(error).__name__}: {error}")


async def _ask(http: httpx2.AsyncClient, body: dict[str, object], end: float, times: _Times) -> None:
    """Stream one answer. What comes after the end does not count."""
    last = time.monotonic()
    begun = False
    async with http.stream("POST", "completions", json=body) as answer:
        if answer.status_code == 429:
            times.refused += 1
            await asyncio.sleep(float(answer.headers["retry-after"]))
            return
        if answer.status_code != 200:
            times.errors.append(f"status {answer.status_code}")
            return
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line.removeprefix("data: "))
            if "error" in chunk:
                times.errors.append(chunk["error"]["message"])
                return
            now = time.monotonic()
            if now > end:
                return
            if not chunk["choices"][0]["text"]:
                continue
            (times.between if begun else times.first).append(now - last)
            begun, last = True, now
            times.tokens += 1
    times.answers += 1


def _cpu_seconds(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _table(load: Load) -> str:
    milliseconds = {
        "first token": (load.first_token_p50, load.first_token_p95),
        "token": (load.token_p50, load.token_p95),
    }
    lines = [f"{load.clients} clients for {load.seconds:g} s: {load.answers} answers, {load.tokens} pieces of text"]
    lines += [f"{load.tokens_per_second:.1f} tokens/s in all"]
    lines += [f"{name}: p50 {1e3 * p50:.0f} ms, p95 {1e3 * p95:.0f} ms" for name, (p50, p95) in milliseconds.items()]
    lines += [f"refused {load.refused}, errors {load.errors or 'none'}"]
    memory = (load.memory_start, load.memory_middle, load.memory_end)
    lines += ["memory at start, middle, end: " + ", ".join(f"{each / 1e6:.1f} MB" for each in memory)]
    return "\n".join(
        [*lines, f"the server: {load.server_cores} cores; other processes, without the clients: {load.other_cores}"]
    )


def _command(args: argparse.Namespace) -> None:
    for name in ("clients", "words", "slots", "threads"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name}: expected at least 1, got {getattr(args, name)}")
    if args.seconds <= 0:
        raise InputError(f"--seconds: expected above 0, got {args.seconds:g}")
    options = ["--queue", str(args.queue), "--context", str(args.context)]
    options += [] if args.library else ["--no-library"]
    found = measure(args.model, args.clients, args.seconds, args.words, args.slots, args.threads, options)
    print(json.dumps({"model": str(args.model), **asdict(found)}) if args.json else _table(found))


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.models.serve_load", description="A server under load, seen by its clients."
    )
    parser.add_argument("model", type=Path, metavar="OUT.onnx", help="an exported model")
    parser.add_argument("--clients", type=int, default=16, metavar="N", help="default 16")
    parser.add_argument("--seconds", type=float, default=300, metavar="S", help="default 300")
    parser.add_argument("--words", type=int, default=120, metavar="N", help="of a prompt, at most (default 120)")
    parser.add_argument("--slots", type=int, default=4, metavar="N", help="of the server (default 4)")
    parser.add_argument("--threads", type=int, default=2, metavar="T", help="of the server (default 2)")
    parser.add_argument("--queue", type=int, default=64, metavar="N", help="of the server (default 64)")
    parser.add_argument("--context", type=int, default=0, metavar="N", help="of the server (default: its own)")
    parser.add_argument("--no-library", dest="library", action="store_false", help="as of the server")
    add_common_options(parser)
    return run(parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
