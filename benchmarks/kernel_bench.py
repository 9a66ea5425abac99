"""Speed of the kernels, one thread, weights out of cache, beside what this machine's memory can deliver.

    python benchmarks/kernel_bench.py --shapes 4096x4096 --rows 1 128 --levels 4
    python benchmarks/kernel_bench.py --json > result.json

Each configuration gets as many packed copies of a weight as fill --megabytes, which must be well above the last-level
cache, and products take them in turn: a model's decode step reads every weight once. In every round all configurations
and one plain read of the same amount of memory are timed in turn, so that a busy neighbour hits all alike.

  us         time of one product, best and median of the rounds
  GB/s       packed bytes read for a second, best round; `of_read` relates it to the best plain read
  GOPS       2 M N K operations a second
"""

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dualbinary.console import add_common_options, run
from dualbinary.schema import padded_k
from runtime_ext.capi import Weight
from runtime_ext.library import describe

MEGA = 1_000_000
SEED = 0


@dataclass
class Case:
    """One kernel on one problem: its copies of the weight, and the rounds' times."""

    kernel: str
    level: int
    N: int
    K: int
    rows: int
    weights: list[Weight]
    x: np.ndarray
    times: list[float]

    def products(self) -> None:
        """One product with each copy."""
        for weight in self.weights:
            weight.multiply(self.x, self.y)

    def __post_init__(self) -> None:
        self.y = np.empty((self.rows, self.N), self.x.dtype)

    def row(self, read_rate: float) -> dict[str, Any]:
        """The result as one flat record."""
        each = [t / len(self.weights) for t in self.times]
        best = min(each)
        rate = self.weights[0].nbytes / best / 1e9
        return {
            "kernel": self.kernel,
            "accuracy_level": self.level,
            "N": self.N,
            "K": self.K,
            "M": self.rows,
            "us_best": round(best * 1e6, 1),
            "us_median": round(statistics.median(each) * 1e6, 1),
            "GB/s": round(rate, 2),
            "of_read": round(rate / read_rate, 3),
            "GOPS": round(2 * self.rows * self.N * self.K / best / 1e9, 1),
        }


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="kernel_bench.py", description="Time the kernels against the memory's speed.")
    parser.add_argument("--shapes", nargs="+", default=["4096x4096"], metavar="NxK", help="outputs x inputs")
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 128], metavar="M", help="rows of activations")
    parser.add_argument("--levels", nargs="+", type=int, default=[0, 4], choices=[0, 4], help="accuracy_level")
    parser.add_argument("--kernels", nargs="+", metavar="NAME", help="names from the inventory (default: the best)")
    parser.add_argument("--group-size", type=int, default=128, metavar="G")
    parser.add_argument("--planes", type=int, default=2, metavar="P")
    parser.add_argument("--offset", action="store_true", help="scales with an offset row")
    parser.add_argument("--dtype", choices=["float32", "float16"], default="float32", help="type of X and Y")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--megabytes", type=int, default=1000, help="packed weights of a configuration at M=1")
    add_common_options(parser)
    return run(parser, _bench, argv)


def _bench(args: argparse.Namespace) -> None:
    cases = [case for options in _configurations(args) if (case := _case(args, *options)) is not None]
    memory = np.ones(args.megabytes * MEGA // 8, np.int64)
    reads: list[float] = []
    for _ in range(args.rounds):
        reads.append(_seconds(lambda: np.bitwise_or.reduce(memory)))
        for case in cases:
            case.times.append(_seconds(case.products))
    read_rate = memory.nbytes / min(reads) / 1e9
    result = {
        "read_GB/s": round(read_rate, 2),
        "group_size": args.group_size,
        "planes": args.planes,
        "offset": args.offset,
        "dtype": args.dtype,
        "library": describe(),
        "results": [case.row(read_rate) for case in cases],
    }
    if args.json:
        print(json.dumps(result, indent=1))
        return
    print(f"plain read: {read_rate:.1f} GB/s; G={args.group_size} P={args.planes} offset={args.offset} X {args.dtype}")
    for index, row in enumerate(result["results"]):
        if index == 0:
            print(*(f"{name:>{_width(name)}}" for name in row))
        print(*(f"{value:>{_width(name)}}" for name, value in row.items()))


def _configurations(args: argparse.Namespace) -> Any:
    return itertools.product(args.shapes, args.rows, args.levels, args.kernels or [None])


def _case(args: argparse.Namespace, shape: str, rows: int, level: int, kernel: str | None) -> Case | None:
    """The case, or None where the kernel is too coarse for the level."""
    inventory = {row["name"]: row for row in describe()["kernels"]}
    if kernel in inventory and inventory[kernel]["accuracy_level"] > level:
        return None
    N, K = map(int, shape.split("x"))
    rng = np.random.default_rng(SEED)
    groups = padded_k(K, args.group_size) // args.group_size
    planes = rng.integers(0, 256, (args.planes, N, groups * args.group_size // 8), np.uint8)
    scales = rng.uniform(0.01, 0.03, (args.planes + args.offset, N, groups)).astype(np.float16)

    def create(index: int) -> Weight:
        # Equal weights would share one packed copy, which would then come from a cache.
        own = (scales * (1 + index / 1024)).astype(np.float16)
        return Weight(planes, own, K=K, group_size=args.group_size, accuracy_level=level, kernel=kernel)

    weights = [create(0)]
    copies = args.megabytes * MEGA // weights[0].nbytes // rows  # compute takes over as M grows, so fewer will do
    weights += [create(index) for index in range(1, copies)]
    x = rng.standard_normal((rows, K)).astype(args.dtype)
    return Case(weights[0].kernel, level, N, K, rows, weights, x, [])


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _width(name: str) -> int:
    return 20 if name == "kernel" else max(len(name), 8)


if __name__ == "__main__":
    sys.exit(main())
