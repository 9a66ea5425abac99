"""`python -m benchmarks.kernels.builds FIRST.so SECOND.so`: two builds of the library on the same weights, in turn.

For what flags, compilers and versions cost. Both are loaded into one process; each product goes through weights of more
bytes than the caches hold, one thread, and its row is the ratio of the medians, second over first.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.common.machine import last_level_cache
from benchmarks.common.timing import interleave, ratio
from dualbinary.cli.console import add_common_options, run
from dualbinary.contract.levels import Levels
from runtime_ext.capi import Weight

__all__ = ["main"]

N, K = 2048, 2048
BYTES = 40e6  # of distinct weights, or two caches
FORMS = {"2 free planes": (2, False), "3 even planes": (3, True), "4 even planes": (4, True)}


@dataclass(frozen=True)
class Row:
    """A product, and the second build's time over the first's: of the medians, and quartiles of rounds."""

    form: str
    rows: int
    accuracy_level: int
    ratio: float
    low: float
    high: float


def weights(library: Path, form: str, level: int, group_size: int) -> list[Weight]:
    """The same weights in each build."""
    planes, even = FORMS[form]
    random = np.random.default_rng(0)
    made: list[Weight] = []
    enough = max(BYTES, 2 * last_level_cache())
    while not made or len(made) * made[0].nbytes < enough:
        bits = random.integers(0, 256, (planes, N, K // 8), np.uint8)
        scales = random.random((1 if even else planes, N, K // group_size)).astype(np.float16)
        levels = Levels(even=True, twice_zero=2**planes - 1) if even else Levels()
        made.append(
            Weight(bits, scales, K=K, group_size=group_size, levels=levels, accuracy_level=level, library=library)
        )
    return made


def multiply_all(those: list[Weight], x: np.ndarray, y: np.ndarray) -> None:
    """One product with each weight."""
    for weight in those:
        weight.multiply(x, y)


def command(args: argparse.Namespace) -> None:
    """Print a row for each product."""
    found: list[Row] = []
    for form in FORMS:
        for level in (0, 4):
            files = enumerate((args.first, args.second))
            builds = {str(i): weights(path.resolve(), form, level, args.group_size) for i, path in files}
            for rows in args.rows:
                x = np.random.default_rng(1).standard_normal((rows, K)).astype(np.float32)
                y = np.empty((rows, N), np.float32)
                works: dict[str, Callable[[], object]] = {
                    name: partial(multiply_all, those, x, y) for name, those in builds.items()
                }
                times = interleave(works, args.rounds, args.seconds)
                measured = ratio(times["1"], times["0"])
                found.append(Row(form, rows, level, measured.median, measured.low, measured.high))
                if not args.json:
                    one = found[-1]
                    print(f"{form}, level {level}, M={rows:<4} {one.ratio:.3f} ({one.low:.3f} to {one.high:.3f})")
            for those in builds.values():
                for weight in those:
                    weight.close()
    if args.json:
        print(json.dumps({"rows": [asdict(row) for row in found]}))


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kernels.builds", description="Time two builds of the library in turn."
    )
    parser.add_argument("first", type=Path, metavar="FIRST", help="libdualbinary of one build")
    parser.add_argument("second", type=Path, metavar="SECOND", help="and of another")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 32], metavar="M", help="default 1 32")
    parser.add_argument("--group-size", type=int, default=32, metavar="G", help="default 32")
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="default 15")
    parser.add_argument("--seconds", type=float, default=0.05, metavar="S", help="for a build in a round")
    add_common_options(parser)
    return run(parser, command, argv)


if __name__ == "__main__":
    sys.exit(main())
