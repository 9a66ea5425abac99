"""Tokens per second of several sequences at once, beside one; and where the time of a step goes.

    python -m benchmarks.models.batch OUT.onnx [--sequences 1 2 4 8] [--prompt-length 128] [--steps 16] [--profile]

Rounds take each number of sequences in turn: their prompts are read, and then the steps timed. A ratio is the tokens
per second of all sequences, by those of the first number: of the medians, and the quartiles of the rounds. Where other
processes share the cores, the ratio of the best rounds says more; both are printed, and the cores that others took.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from benchmarks.common.machine import OtherLoad
from benchmarks.common.timing import in_turn, ratio
from benchmarks.models.profile import by_run
from dualbinary import InputError
from dualbinary.cli.console import add_common_options, run
from runtime_ext.batch_decoder import BatchDecoder, batch_decoder
from runtime_ext.bench import SEED, TOKEN_RANGE
from runtime_ext.config import DecoderConfig
from runtime_ext.decoder import Decoder, session_options

__all__ = ["Measurement", "main", "measure", "operators"]


@dataclass(frozen=True)
class Measurement:
    """One number of sequences: milliseconds of a step, and the speed of all together by that of the first number.

    `ratio`, `low` and `high` are of medians and quartiles of rounds, `best_ratio` of the fastest rounds.
    """

    sequences: int
    milliseconds: float
    best_milliseconds: float
    tokens_per_second: float
    ratio: float
    low: float
    high: float
    best_ratio: float


def measure(decoder: Decoder, counts: list[int], prompt_length: int, steps: int, rounds: int) -> list[Measurement]:
    """Time `steps` steps of each number of sequences, after prompts of `prompt_length` tokens."""
    batch = batch_decoder(decoder, max(counts), prompt_length + steps)
    times: dict[int, list[float]] = {count: [] for count in counts}
    for each in range(rounds + 1):
        for count in in_turn(counts, each):
            times[count].append(_seconds(batch, count, prompt_length, steps) / steps / count)
    own = {count: values[1:] for count, values in times.items()}  # the first round warms up
    base = own[counts[0]]
    found = []
    for count, seconds in own.items():
        middle, best = statistics.median(seconds), min(seconds)
        factor = ratio(base, seconds)
        found.append(
            Measurement(
                count,
                1e3 * middle * count,
                1e3 * best * count,
                1 / middle,
                factor.median,
                factor.low,
                factor.high,
                min(base) / best,
            )
        )
    return found


def operators(path: Path, threads: int, counts: list[int], prompt_length: int, steps: int) -> dict[str, list[float]]:
    """Microseconds of a step by operator, for each number of sequences: medians over steps, with the profiler."""
    with tempfile.TemporaryDirectory() as scratch:
        options = session_options(threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(scratch) / "profile")
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        decoder = Decoder(session, DecoderConfig.read(path.parent))
        batch = batch_decoder(decoder, max(counts), prompt_length + steps)
        for count in counts:
            _seconds(batch, count, prompt_length, steps)
        runs = by_run(json.loads(Path(session.end_profiling()).read_text(encoding="utf-8")))
    found: dict[str, list[float]] = defaultdict(list)
    for place, count in enumerate(counts):
        # Each number has read its prompts in runs of their own, before its steps.
        end = sum(_runs(batch, each, prompt_length, steps) for each in counts[: place + 1])
        steps_of = runs[end - (steps if batch.batched else steps * count) : end]
        names = {name for each in steps_of for name in each.kernels}
        for name in names:
            found[name] += [0.0] * (place - len(found[name]))
            found[name].append(statistics.median(sum(each.kernels[name]) for each in steps_of))
        between = [each.duration - sum(map(sum, each.kernels.values())) for each in steps_of]
        found["between the nodes"].append(statistics.median(between))
    return dict(sorted(found.items(), key=lambda item: -item[1][-1]))


def _runs(batch: BatchDecoder, count: int, prompt_length: int, steps: int) -> int:
    prompts = count * -(-prompt_length // 256)
    return prompts + (steps if batch.batched else steps * count)


def _seconds(batch: BatchDecoder, count: int, prompt_length: int, steps: int) -> float:
    """Time the steps of `count` new sequences, whose prompts are read before."""
    random = np.random.default_rng(SEED)
    limit = batch.vocabulary or TOKEN_RANGE[1]
    sequences = [batch.open() for _ in range(count)]
    for sequence in sequences:
        batch.read(sequence, (random.integers(*TOKEN_RANGE, size=prompt_length) % limit).tolist())
    tokens = (random.integers(*TOKEN_RANGE, size=(steps, count)) % limit).tolist()
    begin = time.perf_counter()
    for row in tokens:
        batch.step(sequences, row)
    seconds = time.perf_counter() - begin
    for sequence in sequences:
        batch.close(sequence)
    return seconds


def _command(args: argparse.Namespace) -> None:
    for name in ("threads", "prompt_length", "steps", "rounds"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name.replace('_', '-')}: expected at least 1, got {getattr(args, name)}")
    if min(args.sequences) < 1:
        raise InputError(f"--sequences: expected numbers from 1 on, got {min(args.sequences)}")
    decoder = Decoder.load(args.model, args.threads)
    with OtherLoad() as load:
        found = measure(decoder, args.sequences, args.prompt_length, args.steps, args.rounds)
    shares = (
        operators(args.model, args.threads, args.sequences, args.prompt_length, args.steps) if args.profile else None
    )
    if args.json:
        facts = {"model": str(args.model), "threads": args.threads, "other_cores": load.cores}
        print(json.dumps({**facts, "rows": list(map(asdict, found)), "operators": shares}))
        return
    print("| sequences | ms a step | tokens/s in all | ratio (quartiles) | of the best rounds |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for each in found:
        spread = f"{each.ratio:.2f} ({each.low:.2f} to {each.high:.2f})"
        speeds = f"{each.milliseconds:.2f} | {each.tokens_per_second:.0f} | {spread} | {each.best_ratio:.2f}"
        print(f"| {each.sequences} | {speeds} |")
    print(f"\nother processes: {load.cores} cores")
    if shares is not None:
        print(f"\n| us of a step, profiler on | {' | '.join(map(str, args.sequences))} |")
        print("| --- |" + " ---: |" * len(args.sequences))
        for name, values in shares.items():
            print(f"| {name} | {' | '.join(f'{value:.0f}' for value in values)} |")


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.models.batch", description="Several sequences at once, beside one."
    )
    parser.add_argument("model", type=Path, metavar="OUT.onnx", help="an exported model")
    parser.add_argument("--sequences", type=int, nargs="+", default=[1, 2, 4, 8], metavar="N", help="default 1 2 4 8")
    parser.add_argument("--threads", type=int, default=2, metavar="T", help="default 2")
    parser.add_argument("--prompt-length", type=int, default=128, metavar="N", help="of each sequence (default 128)")
    parser.add_argument("--steps", type=int, default=16, metavar="N", help="steps that are timed (default 16)")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="default 9")
    parser.add_argument("--profile", action="store_true", help="also the time of each operator")
    add_common_options(parser)
    return run(parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
