"""Speed of the kernels in ONNX Runtime, beside its own MatMulNBits and a plain read of memory.

    python -m benchmarks.kernels.bench [--quick] [--out FILE] [--shapes NxK ...] [--rows M ...] [--threads T ...]

With --out a run that was stopped continues; `python -m benchmarks.kernels.report FILE` makes the table again, and the
plot. docs/benchmarks.md says what is measured and how to read it.
"""

import argparse
import itertools
import json
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.common.machine import OtherLoad, last_level_cache
from benchmarks.common.memory_read import AHEAD, MemoryRead
from benchmarks.common.records import Records
from benchmarks.common.timing import interleave
from benchmarks.kernels.contenders import FREE, Point, Sessions, WeightFormat, contender_names, even, shape_of
from benchmarks.kernels.report import results, table
from dualbinary.cli.console import add_common_options, run

__all__ = ["main"]

SHAPES = ["4096x4096", "4096x11008", "4096x14336", "11008x4096", "2048x2048", "2048x5632", "576x1536", "1536x576"]
ROWS = [1, 4, 16, 128, 512]
QUICK = {"shapes": ["4096x4096", "2048x5632"], "rows": [1, 128], "rounds": 5}
FULL = {"shapes": SHAPES, "rows": ROWS, "rounds": 15}

MEGA = 1_000_000
CACHES = 8  # the weights of a session at small M, in last-level caches
MAX_MODEL_BYTES = 1_900 * MEGA  # a serialized model holds no more than 2 GiB
# Rough speeds of a thread, for the first estimate of a run's length only; the progress bar soon has measured ones.
ESTIMATED_BYTES, ESTIMATED_OPERATIONS = 8e9, 2e11
SECONDS_PER_POINT = 3.0


def _command(args: argparse.Namespace) -> None:
    chosen = {**(QUICK if args.quick else FULL), **{k: v for k in FULL if (v := getattr(args, k)) is not None}}
    weight_format = WeightFormat(args.group_size, args.planes, args.offset, args.dtype, args.scale_bits)
    forms = [FREE] if args.even is None else [even(planes) for planes in args.even]
    names = contender_names(args.levels, args.isas or [None], args.peers, forms)
    out_of_cache = args.megabytes * MEGA if args.megabytes else min(CACHES * last_level_cache(), MAX_MODEL_BYTES)
    settings = {
        **vars(weight_format),
        "contenders": names,
        "out_of_cache": out_of_cache,
        "rounds": chosen["rounds"],
        "seconds": args.seconds,
    }
    points = [
        Point(*shape_of(shape), rows, threads)
        for shape, threads, rows in itertools.product(chosen["shapes"], args.threads, chosen["rows"])
    ]
    records = Records(args.out, settings)
    _measure(points, records, Sessions(weight_format, names, out_of_cache), chosen["rounds"], args.seconds)
    wanted = {point.key for point in points}
    rows = results({**records.content, "records": [r for r in records.records if r["key"] in wanted]})
    if args.json:
        print(json.dumps({**records.content, "results": rows}))
    else:
        print("\n".join(table(rows)))


def _measure(points: list[Point], records: Records, sessions: Sessions, rounds: int, seconds: float) -> None:
    """Measure the points that the file lacks, and record each one."""
    missing = [point for point in points if point.key not in records]
    if not missing:
        return
    estimates = {point: _estimate(point, sessions, rounds, seconds) for point in missing}
    total = sum(estimates.values())
    print(f"{len(missing)} of {len(points)} points, at a first estimate {total / 60:.0f} minutes", file=sys.stderr)
    memory = MemoryRead(sessions.out_of_cache)
    layout = "{desc} {percentage:3.0f}%|{bar}| {elapsed} elapsed, {remaining} left"
    with tqdm(total=total, bar_format=layout, file=sys.stderr) as bar:
        for point in missing:
            bar.set_description(point.key)
            records.add(point.key, **vars(point), **_measured(point, sessions, memory, rounds, seconds))
            bar.update(estimates[point])


def _measured(point: Point, sessions: Sessions, memory: MemoryRead, rounds: int, seconds: float) -> dict[str, Any]:
    """Measure a point: seconds of one product, and of one read of the buffer at each prefetch distance."""
    reads = {f"read {ahead}": memory.reader(point.threads, ahead) for ahead in AHEAD}
    runs = sessions.runs(point)
    with OtherLoad() as load:
        times = interleave({**reads, **runs}, rounds, seconds)
    return {
        "other_cores": load.cores,
        "read": {"bytes": memory.nbytes, "seconds": [times[name] for name in reads]},
        "contenders": {
            name: {
                "stored_bytes": sessions.weight_format.stored_bytes(name, point),
                "seconds": [each / sessions.nodes(name, point) for each in times[name]],
            }
            for name in runs
        },
    }


def _estimate(point: Point, sessions: Sessions, rounds: int, seconds: float) -> float:
    """Estimate the seconds that a point takes."""
    run_seconds = [
        sessions.nodes(name, point)
        * max(
            sessions.weight_format.stored_bytes(name, point) / ESTIMATED_BYTES,
            2 * point.M * point.N * point.K / ESTIMATED_OPERATIONS,
        )
        / point.threads
        for name in sessions.names
    ]
    return SECONDS_PER_POINT + (rounds + 1) * sum(max(2 * seconds, each) for each in run_seconds)


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kernels.bench",
        description="Time the kernels beside ONNX Runtime's MatMulNBits and a plain read of memory.",
    )
    parser.add_argument("--quick", action="store_true", help="two shapes, M 1 and 128, few rounds: about a minute")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="JSON file of the measurements; a stopped run continues from it"
    )
    points = parser.add_argument_group("what is measured")
    points.add_argument("--shapes", nargs="+", metavar="NxK", help="outputs x inputs")
    points.add_argument("--rows", nargs="+", type=int, metavar="M", help=f"rows of X (default {ROWS})")
    points.add_argument("--threads", nargs="+", type=int, default=[1, 2], metavar="T", help="default 1 2")
    points.add_argument("--levels", nargs="+", type=int, default=[4, 0], choices=[0, 4], help="accuracy_level")
    points.add_argument("--isas", nargs="+", metavar="ISA", help="force each of these (default: what this CPU gets)")
    points.add_argument("--peers", nargs="*", type=int, default=[2, 4], choices=[2, 4, 8], help="bits of MatMulNBits")
    points.add_argument("--group-size", type=int, default=128, metavar="G")
    points.add_argument("--planes", type=int, default=2, metavar="P", help="of free levels")
    points.add_argument(
        "--even", nargs="+", type=int, metavar="P", help="even levels of so many planes in the place of free ones"
    )
    points.add_argument("--offset", action="store_true", help="scales with an offset row")
    points.add_argument("--scale-bits", type=int, default=16, choices=[16, 8], help="bits of one of our scales")
    points.add_argument("--dtype", choices=["float32", "float16"], default="float32", help="type of X and Y")
    how = parser.add_argument_group("how")
    how.add_argument("--rounds", type=int, help=f"default {FULL['rounds']}, with --quick {QUICK['rounds']}")
    how.add_argument("--seconds", type=float, default=0.05, help="for one contender in a round (default 0.05)")
    how.add_argument("--megabytes", type=int, help=f"weights of a session at small M (default {CACHES} caches)")
    add_common_options(parser)
    return run(parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
