"""From how many rows a level kernel is faster than the table kernel whose packed form it reads.

    python -m benchmarks.kernels.crossover level8_n32_avx512 [--planes 3 4] [--group-size 128] [--rows 2 4 8 16]

Prints, for even levels, how many times as long the table kernel takes: medians of ratios of rounds in which both take
turns. Times are those that the thread spent on a CPU, so that a busy machine disturbs them little. They show what
`min_rows` of the kernel should say.
"""

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np

import runtime_ext
from benchmarks.common.timing import interleave, ratio
from dualbinary import InputError
from dualbinary.cli.console import add_common_options, run
from dualbinary.contract.weight import PlaneFormat
from runtime_ext.capi import Weight

__all__ = ["main"]

N, K = 1024, 4096
ROUNDS, SECONDS = 9, 0.02


def _thread_clock(work: Callable[[], object]) -> float:
    begin = time.thread_time()
    work()
    return time.thread_time() - begin


def _ratios(names: tuple[str, str], planes: int, group_size: int, rows: list[int]) -> list[float]:
    """How many times as long the second kernel takes, for each number of rows."""
    form = PlaneFormat(planes, group_size, levels="even", zero=2.0 ** (planes - 1) if planes > 1 else 0.5)
    generator = np.random.default_rng(0)
    planes_shape, scales_shape = form.shapes(N, K)
    bits = generator.integers(0, 256, planes_shape, np.uint8)
    scales = generator.uniform(0.01, 0.03, scales_shape).astype(form.scale_dtype)
    attributes = {"K": K, "group_size": group_size, "levels": form.node_levels, "accuracy_level": 4}
    weights = {name: Weight(bits, scales, **attributes, kernel=name) for name in names}
    found = []
    for count in rows:
        x = generator.standard_normal((count, K)).astype(np.float32)
        works = {name: partial(weight.multiply, x) for name, weight in weights.items()}
        times = interleave(works, ROUNDS, SECONDS, _thread_clock)
        found.append(ratio(times[names[1]], times[names[0]]).median)
    for weight in weights.values():
        weight.close()
    return found


def _command(args: argparse.Namespace) -> None:
    kernels = {kernel["name"]: kernel for kernel in runtime_ext.describe()["kernels"]}
    kernel = kernels.get(args.kernel)
    if kernel is None or kernel["packed_as"] is None or not (kernel["available"] and kernel["even_levels"]):
        fit = [name for name, k in kernels.items() if k["packed_as"] and k["available"] and k["even_levels"]]
        raise InputError(f"KERNEL: expected one of {', '.join(fit) or 'none here'}, got {args.kernel}")
    print(f"| G | P | {' | '.join(f'M = {count}' for count in args.rows)} |")
    print("| ---: |" + " ---: |" * (1 + len(args.rows)))
    for group_size in args.group_size:
        for planes in args.planes:
            found = _ratios((args.kernel, kernel["packed_as"]), planes, group_size, args.rows)
            print(f"| {group_size} | {planes} | {' | '.join(f'{each:.2f}' for each in found)} |", flush=True)


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kernels.crossover",
        description="Time a level kernel beside the table kernel whose packed form it reads.",
    )
    parser.add_argument("kernel", metavar="KERNEL", help="level8_n32_avx512, level16_n32_avx2 or another")
    parser.add_argument("--planes", nargs="+", type=int, default=[2, 3, 4, 5, 6, 8], metavar="P")
    parser.add_argument("--group-size", nargs="+", type=int, default=[128, 64, 32, 16], metavar="G")
    parser.add_argument("--rows", nargs="+", type=int, default=[2, 4, 8, 16, 64], metavar="M")
    add_common_options(parser)
    return run(parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
