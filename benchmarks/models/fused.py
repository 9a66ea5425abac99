"""Decoding and prompts of an export with blocks, beside the same file without.

    python -m benchmarks.models.fused OUT.onnx [--threads 1 2] [--prompt-length 128] [--tokens 40] [--rounds 9] [--json]

The other file is made of OUT.onnx: blocks become the nodes again that they stand for, beside the same weights. Both are
loaded in one process and take turns round after round, each time a prompt and then tokens one by one. A ratio is how
many times as long the file without blocks takes: of the medians, and the quartiles of the rounds. The last column is
the time of a token with blocks by that of reading its weights (benchmarks/models/floor.py), measured in between.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx

from benchmarks.common.machine import OtherLoad
from benchmarks.common.timing import Ratio, ratio
from benchmarks.models.floor import measured_floor
from dualbinary import InputError
from dualbinary.cli.console import add_common_options, run
from dualbinary.onnx_files.blocks import unfuse_blocks
from runtime_ext.bench import SEED, TOKEN_RANGE
from runtime_ext.decoder import Decoder

__all__ = ["Measurement", "main", "measure"]

WARM_UP = 4
PAUSE = 0.01  # threads of the other session spin for a while after its last run


@dataclass(frozen=True)
class Measurement:
    """Of one number of threads: milliseconds with blocks and without, medians of rounds, and their ratios."""

    threads: int
    token: tuple[float, float]
    prompt: tuple[float, float]
    token_ratio: Ratio
    prompt_ratio: Ratio
    of_floor: float


@contextmanager
def _without_blocks(path: Path) -> Iterator[Path]:
    """A file like `path`, beside links to all that lies there."""
    model = onnx.load(path, load_external_data=False)
    if not unfuse_blocks(model):
        raise InputError(f"{path}: has no blocks; export it with --fuse all")
    with tempfile.TemporaryDirectory(dir=path.parent.parent) as scratch:
        for file in path.parent.iterdir():
            if file.is_file() and file.name != path.name:
                os.link(file, Path(scratch) / file.name)
        onnx.save(model, Path(scratch) / path.name)
        yield Path(scratch) / path.name


def measure(path: Path, threads: int, prompt_length: int, tokens: int, rounds: int) -> Measurement:
    """Time both files. Raises InputError for one without blocks."""
    ids = np.random.default_rng(SEED).integers(*TOKEN_RANGE, size=prompt_length)
    with _without_blocks(path) as other:
        decoders = [Decoder.load(each, threads) for each in (path, other)]
        token: list[list[float]] = [[], []]
        prompt: list[list[float]] = [[], []]
        for index in range(rounds + 1):
            for place in (0, 1) if index % 2 else (1, 0):
                spent = _round(decoders[place], (ids % (decoders[place].vocabulary or ids.max() + 1)).tolist(), tokens)
                if index:  # the first round warms up
                    prompt[place].append(spent[0])
                    token[place].append(spent[1])
    floor = measured_floor(path, threads)
    return Measurement(
        threads,
        _milliseconds(token),
        _milliseconds(prompt),
        ratio(token[1], token[0]),
        ratio(prompt[1], prompt[0]),
        statistics.median(token[0]) / floor.seconds,
    )


def _milliseconds(times: list[list[float]]) -> tuple[float, float]:
    with_blocks, without = (1e3 * statistics.median(each) for each in times)
    return with_blocks, without


def _round(decoder: Decoder, ids: list[int], tokens: int) -> tuple[float, float]:
    """Seconds of the prompt, and of a token behind it."""
    decoder.start(len(ids) + WARM_UP + tokens)
    time.sleep(PAUSE)
    began = time.perf_counter()
    decoder.step(ids)
    prompt = time.perf_counter() - began
    for _ in range(WARM_UP):
        decoder.step(ids[:1])
    began = time.perf_counter()
    for _ in range(tokens):
        decoder.step(ids[:1])
    return prompt, (time.perf_counter() - began) / tokens


def _command(args: argparse.Namespace) -> None:
    for name in ("prompt_length", "tokens", "rounds"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name.replace('_', '-')}: expected at least 1, got {getattr(args, name)}")
    with OtherLoad() as load:
        found = [measure(args.model, each, args.prompt_length, args.tokens, args.rounds) for each in args.threads]
    if args.json:
        print(json.dumps({"model": str(args.model), "other_cores": load.cores, "rows": list(map(asdict, found))}))
        return
    print("| threads | token, ms | without blocks | ratio (quartiles) | prompt, ms | without | ratio | of the floor |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for each in found:
        spread = f"{each.token_ratio.median:.2f} ({each.token_ratio.low:.2f} to {each.token_ratio.high:.2f})"
        prompts = f"{each.prompt[0]:.1f} | {each.prompt[1]:.1f} | {each.prompt_ratio.median:.2f}"
        line = f"{each.token[0]:.2f} | {each.token[1]:.2f} | {spread} | {prompts} | {each.of_floor:.2f}"
        print(f"| {each.threads} | {line} |")
    print(f"\nother processes: {load.cores} cores")


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.models.fused", description="An export with blocks beside the same without."
    )
    parser.add_argument("model", type=Path, metavar="OUT.onnx", help="an export with blocks")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="T", help="default 1 2")
    parser.add_argument("--prompt-length", type=int, default=128, metavar="N", help="default 128")
    parser.add_argument("--tokens", type=int, default=40, metavar="N", help="tokens that are timed (default 40)")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="default 9")
    add_common_options(parser)
    return run(parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
