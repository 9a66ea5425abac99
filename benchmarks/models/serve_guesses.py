"""A server with one client, as on a device of its own: how much sooner answers are whole where tokens are guessed.

    python -m benchmarks.models.serve_guesses OUT.onnx [--threads 2] [--rounds 3] [--tokens 160] [--json]

Two servers of the model run, one of them with `--speculate none`, and get the requests of speculation_prompts.toml in
turn, greedily; both must answer alike. A time is the client's, from request to answer, prompt and HTTP included. A
ratio is the median over rounds without guesses by that with them, and for all requests together that of their sums.
"""

import argparse
import json
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import httpx2

from benchmarks.common.machine import OtherLoad
from benchmarks.common.served import Served, served
from benchmarks.common.timing import in_turn
from benchmarks.models.speculate import PROMPTS, read_prompts
from dualbinary import DualBinaryError, InputError
from dualbinary.cli.console import add_common_options, run

__all__ = ["Asked", "main", "measure"]

PLAIN, GUESSED = "none", "auto"  # values of --speculate


@dataclass(frozen=True)
class Asked:
    """What one request took, in seconds, and the tokens of its answer."""

    kind: str
    tokens: int
    plain_seconds: float
    seconds: float

    @property
    def ratio(self) -> float:
        """How many times as fast guesses make it."""
        return self.plain_seconds / self.seconds


def measure(path: Path, requests: list[tuple[str, str]], tokens: int, rounds: int, options: list[str]) -> list[Asked]:
    """Ask everything of both servers. Raises DualBinaryError where one fails, or an answer differs."""
    found = []
    with ExitStack() as stack:
        servers = {how: stack.enter_context(served(path, [*options, "--speculate", how])) for how in (PLAIN, GUESSED)}
        for kind, text in requests:
            seconds: dict[str, list[float]] = {how: [] for how in servers}
            answers = set()
            for number in range(rounds + 1):  # the first of each warms up
                for how in in_turn(list(servers), number):
                    taken, answer, count = _ask(servers[how], text, tokens)
                    seconds[how].append(taken)
                    answers.add((answer, count))
            if len(answers) > 1:
                raise DualBinaryError(f"the answer with guesses is another one; request: {text[:60]!r}")
            _, count = answers.pop()
            found.append(Asked(kind, count, *(median(seconds[how][1:]) for how in (PLAIN, GUESSED))))
    return found


def _ask(server: Served, text: str, tokens: int) -> tuple[float, str, int]:
    """Seconds, answer, and its tokens."""
    body = {"model": server.model, "messages": [{"role": "user", "content": text}]}
    body |= {"max_completion_tokens": tokens, "temperature": 0}
    began = time.perf_counter()
    answer = httpx2.post(f"{server.url}/chat/completions", json=body, timeout=600)
    taken = time.perf_counter() - began
    value = answer.json()
    if answer.status_code != 200:
        raise DualBinaryError(f"status {answer.status_code}: {value['error']['message']}")
    return taken, value["choices"][0]["message"]["content"], value["usage"]["completion_tokens"]


def _command(args: argparse.Namespace) -> None:
    for name in ("tokens", "rounds", "threads"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name}: expected at least 1, got {getattr(args, name)}")
    requests, options = read_prompts(args.prompts), ["--threads", str(args.threads)]
    with OtherLoad() as load:
        found = measure(args.model, requests, args.tokens, args.rounds, options)
    whole = sum(each.plain_seconds for each in found) / sum(each.seconds for each in found)
    if args.json:
        rows = [asdict(each) | {"ratio": each.ratio} for each in found]
        facts = {"model": str(args.model), "threads": args.threads, "other_cores": load.cores}
        print(json.dumps({**facts, "requests": rows, "ratio": whole}))
        return
    print("| request | answer | without guesses, s | with, s | times as fast |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for each in found:
        print(f"| {each.kind} | {each.tokens} | {each.plain_seconds:.2f} | {each.seconds:.2f} | {each.ratio:.2f} |")
    print(f"| all | | | | {whole:.2f} |")


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.models.serve_guesses",
        description="A server with one client, whose answers are guessed ahead or not.",
    )
    parser.add_argument("model", type=Path, metavar="OUT.onnx", help="an exported model with a chat template")
    parser.add_argument("--threads", type=int, default=2, metavar="T", help="of a server (default 2)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default 3")
    parser.add_argument("--tokens", type=int, default=160, metavar="N", help="of an answer at most (default 160)")
    parser.add_argument("--prompts", type=Path, default=PROMPTS, metavar="FILE", help="other requests")
    add_common_options(parser)
    return run(parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
