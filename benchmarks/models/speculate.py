"""Decoding speed with guesses and without, on requests whose answers repeat what was asked; and that no token differs.

    python -m benchmarks.models.speculate OUT.onnx [--draft SMALLER.onnx] [--threads 2] [--rounds 3] [--tokens 160]

The requests are those of speculation_prompts.toml: five summaries and five edits, in the model's chat template. Rounds
answer every request plainly and with guesses, in turn, greedily. A ratio is the seconds of decoding without guesses by
those with, prompts left out: of the medians over rounds, and for all requests together of their sums. `cost` is how
much longer a run of 2, 4 and 8 tokens took than one of a single token, by what the pace of the guesses measured.
"""

import argparse
import json
import math
import sys
import tomllib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from benchmarks.common.machine import OtherLoad
from benchmarks.common.timing import in_turn
from dualbinary import DualBinaryError, InputError
from dualbinary.cli.console import add_common_options, run
from runtime_ext.decoder import Decoder
from runtime_ext.generate import generate
from runtime_ext.generation import Generation
from runtime_ext.sampling import Sampler
from runtime_ext.speculation import DraftGuesser, NgramGuesser, Pace, Speculation
from runtime_ext.text import TextCodec

__all__ = ["PROMPTS", "Request", "main", "measure", "read_prompts"]

PROMPTS = Path(__file__).with_name("speculation_prompts.toml")


@dataclass(frozen=True)
class Request:
    """What one request took: tokens of prompt and answer, seconds of decoding, runs of the model, guesses."""

    kind: str
    prompt_tokens: int
    tokens: int
    plain_seconds: float
    seconds: float
    runs: int
    guessed: int
    accepted: int

    @property
    def ratio(self) -> float:
        """How many times as fast guesses make it."""
        return _times_as_fast([self])


def _times_as_fast(requests: list[Request]) -> float:
    """The ratio over all `requests`; not a number where no answer has a second token, as decoding begins with that."""
    seconds = sum(each.seconds for each in requests)
    return sum(each.plain_seconds for each in requests) / seconds if seconds else math.nan


def read_prompts(path: Path = PROMPTS) -> list[tuple[str, str]]:
    """Kind and text of each request."""
    rows = tomllib.loads(path.read_text(encoding="utf-8"))["prompt"]
    return [(row["kind"], f"{row['request']}\n\n{row['text'].strip()}") for row in rows]


def measure(
    decoder: Decoder,
    codec: TextCodec,
    requests: list[tuple[str, str]],
    guesses: Callable[[], Speculation],
    tokens: int,
    rounds: int,
) -> list[Request]:
    """Answer all requests. Raises DualBinaryError where a token differs."""
    found = []
    for kind, text in requests:
        prompt = codec.encode_chat(text)
        plain: list[Generation] = []
        guessed: list[Generation] = []
        for count in range(rounds + 1):  # the first of each warms up
            for answers in in_turn([plain, guessed], count):
                answers.append(_answer(decoder, prompt, tokens, guesses() if answers is guessed else None))
        if any(answer.tokens != plain[0].tokens for answer in plain + guessed):
            raise DualBinaryError(f"the answer with guesses is another one; request: {text[:60]!r}")
        last = guessed[-1]
        before, after = (median(answer.decode_seconds for answer in answers[1:]) for answers in (plain, guessed))
        counts = last.runs, last.guessed, last.accepted
        found.append(Request(kind, len(prompt), len(last.tokens), before, after, *counts))
    return found


def _answer(decoder: Decoder, prompt: list[int], tokens: int, speculation: Speculation | None) -> Generation:
    result = Generation([])
    list(generate(decoder, prompt, tokens, Sampler(), result, speculation))
    return result


def _command(args: argparse.Namespace) -> None:
    for name, least in (("tokens", 2), ("rounds", 1)):
        if getattr(args, name) < least:
            raise InputError(f"--{name}: expected at least {least}, got {getattr(args, name)}")
    requests = read_prompts(args.prompts)
    decoder = Decoder.load(args.model, args.threads)
    draft = Decoder.load(args.draft, args.threads) if args.draft is not None else None
    paces = [Pace()]

    def guesses() -> Speculation:
        paces.append(Pace())
        guesser = NgramGuesser() if draft is None else DraftGuesser(draft, decoder, paces[-1])
        return Speculation(decoder, guesser, paces[-1])

    with OtherLoad() as load:
        found = measure(decoder, TextCodec(args.model.parent), requests, guesses, args.tokens, args.rounds)
    whole = _times_as_fast(found)
    cost = {rows: median(pace.cost(rows) for pace in paces[1:]) for rows in (2, 4, 8)}
    if args.json:
        rows = [asdict(each) | {"ratio": each.ratio} for each in found]
        facts = {"model": str(args.model), "threads": args.threads, "other_cores": load.cores}
        print(json.dumps({**facts, "requests": rows, "ratio": whole, "cost": cost}))
        return
    print("| request | prompt | answer | runs | guesses right | times as fast |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for each in found:
        counts = f"{each.prompt_tokens} | {each.tokens} | {each.runs} | {each.accepted} of {each.guessed}"
        print(f"| {each.kind} | {counts} | {each.ratio:.2f} |")
    print(f"| all | | | | | {whole:.2f} |")
    print("\nthe same tokens in all answers; cost of a run: " + ", ".join(f"{k} rows {v:.2f}" for k, v in cost.items()))
    print(f"other processes: {load.cores} cores")


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.models.speculate", description="Decoding speed with guesses, and without."
    )
    parser.add_argument("model", type=Path, metavar="OUT.onnx", help="an exported model")
    parser.add_argument("--draft", type=Path, metavar="SMALLER.onnx", help="a model that guesses (default: the text)")
    parser.add_argument(
        "--prompts", type=Path, default=PROMPTS, metavar="FILE", help="requests in the form of that file"
    )
    parser.add_argument("--threads", type=int, default=2, metavar="T", help="default 2")
    parser.add_argument("--tokens", type=int, default=160, metavar="N", help="of an answer at most (default 160)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default 3")
    add_common_options(parser)
    return run(parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
