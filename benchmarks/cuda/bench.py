"""Speed of the CUDA kernels beside cuBLAS, ONNX Runtime's MatMulNBits and torch's int4 product, and a plain read.

    python -m benchmarks.cuda.bench --library FILE [--quick] [--out FILE] [--shapes NxK ...] [--rows M ...] [--require]

With --out a run that was stopped continues; `python -m benchmarks.cuda.report FILE` makes the table again.
docs/benchmarks.md says what is measured and how to read it.
"""

import argparse
import itertools
import os
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.common.records import Records
from benchmarks.common.timing import interleave
from benchmarks.cuda.contenders import (
    OURS,
    PEERS,
    PLANES,
    SHAPES,
    X_TYPE,
    Point,
    Products,
    our_names,
    parse_name,
    stored_bytes,
    takes,
    weight_count,
)
from benchmarks.cuda.device import AbsentError, Contender, Device, Emulated
from benchmarks.cuda.report import print_report
from benchmarks.cuda.torch_device import TorchDevice
from benchmarks.kernels.contenders import shape_of
from dualbinary import InputError
from dualbinary.cli.console import add_common_options, run
from runtime_ext.cuda_capi import describe

__all__ = ["main", "measure"]

VARIABLE = "DUALBINARY_CUDA_LIBRARY"
ROWS = [1, 4, 16, 128, 512, 2048]
GROUPS = [64, 128]
FULL: dict[str, Any] = {"shapes": list(SHAPES), "rows": ROWS, "group_sizes": GROUPS, "rounds": 9}
QUICK: dict[str, Any] = {
    "shapes": ["4096x14336", "8192x8192"],
    "rows": [1, 128, 2048],
    "group_sizes": [64],
    "rounds": 5,
}


def _command(args: argparse.Namespace) -> None:
    chosen = {**(QUICK if args.quick else FULL), **{k: v for k in FULL if (v := getattr(args, k)) is not None}}
    library = _library(args.library)
    device: Device = Emulated(library) if args.emulated else TorchDevice(library)
    names = our_names(args.levels, _kernels(library, args.kernels)) + args.peers
    points = [
        Point(*shape_of(shape), rows, group_size)
        for shape, group_size, rows in itertools.product(chosen["shapes"], chosen["group_sizes"], chosen["rows"])
    ]
    settings = {
        **device.facts(),
        "planes": PLANES,
        "x_type": X_TYPE,
        "contenders": names,
        "rounds": chosen["rounds"],
        "seconds": args.seconds,
    }
    records = Records(args.out, settings)
    missing = [point for point in points if point.key not in records]
    for point in tqdm(missing, file=sys.stderr, disable=None):
        records.add(point.key, **vars(point), **measure(device, point, names, chosen["rounds"], args.seconds))
    wanted = {point.key for point in points}
    content = {**records.content, "records": [each for each in records.records if each["key"] in wanted]}
    print_report(content, as_json=args.json, require=args.require)


def measure(device: Device, point: Point, names: list[str], rounds: int, seconds: float) -> dict[str, Any]:
    """Measure a point: seconds of one product of each contender, and of the reads, round by round."""
    device.release()  # the buffers of the point before are unused by now
    products = _OurProducts(device, point)
    try:
        contenders, missing = _contenders(device, point, names, products)
        reads = device.reads()
        works = {f"read {name}": work for name, (_, work) in reads.items()}
        works |= {f"{name} {how}": work for name, each in contenders.items() for how, work in each.works.items()}
        times = interleave(works, rounds, seconds, device.clock)
        return {
            "reads": {name: {"bytes": nbytes, "seconds": times[f"read {name}"]} for name, (nbytes, _) in reads.items()},
            "contenders": {
                name: {
                    "stored_bytes": stored_bytes(name, point),
                    **products.facts(name),
                    "seconds": {how: [t / each.products for t in times[f"{name} {how}"]] for how in each.works},
                }
                for name, each in contenders.items()
            },
            "missing": missing,
        }
    finally:
        products.close()


class _OurProducts:
    """Our weights of a point, at each accuracy_level that is asked for."""

    def __init__(self, device: Device, point: Point) -> None:
        self._device, self._point = device, point
        self._products: dict[int, Products] = {}
        self._kernels = {kernel["name"]: kernel for kernel in describe(device.library)["kernels"]}

    def contender(self, name: str) -> Contender:
        """Make one of our contenders. Raises AbsentError where a forced kernel cannot take the point."""
        level, kernel = parse_name(name)
        if kernel is not None and not takes(self._kernels[kernel], self._point.M, self._device.capability):
            raise AbsentError(f"{kernel} takes no {self._point.M} rows on this device")
        if level not in self._products:
            count = weight_count(name, self._point, self._device.l2_bytes)
            self._products[level] = Products(self._device, self._point, level, count)
        work = self._products[level].work(kernel)
        replay = self._device.captured(work)
        works = {"launch": work} if replay is None else {"replay": replay, "launch": work}
        return Contender(works, len(self._products[level].weights))

    def check(self, contenders: dict[str, Contender]) -> None:
        """Raise DualBinaryError where kernels disagree: a wrong product has no speed."""
        for level, products in self._products.items():
            of_level = {name: each for name, each in contenders.items() if parse_name(name)[0] == level}
            products.check(
                {f"{name} {how}": work for name, each in of_level.items() for how, work in each.works.items()}
            )

    def facts(self, name: str) -> dict[str, Any]:
        """Return the kernel of one of our contenders and its packed bytes, to be recorded with its times."""
        if not name.startswith(OURS):
            return {}
        level, kernel = parse_name(name)
        products = self._products[level]
        return {"kernel": kernel or products.chosen(), "packed_bytes": products.packed_bytes}

    def close(self) -> None:
        for products in self._products.values():
            products.close()


def _contenders(
    device: Device, point: Point, names: list[str], ours: _OurProducts
) -> tuple[dict[str, Contender], dict[str, str]]:
    """Return the contenders that can run, and why each peer that cannot; forced kernels need no reason."""
    found: dict[str, Contender] = {}
    missing: dict[str, str] = {}
    for name in names:
        try:
            if name.startswith(OURS):
                found[name] = ours.contender(name)
            else:
                count = weight_count(name, point, device.l2_bytes)
                found[name] = device.peer(name, point.N, point.K, point.M, point.G, count)
        except AbsentError as reason:
            if not name.startswith(OURS):
                missing[name] = str(reason)
    ours.check({name: each for name, each in found.items() if name.startswith(OURS)})
    return found, missing


def _library(named: Path | None) -> Path:
    path = named or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    if path is None:
        raise InputError(
            f"--library: expected the file of libdualbinary_cuda, here or in {VARIABLE}, got none; make cuda builds it"
        )
    if not path.is_file():
        raise InputError(f"{path}: no such library; make cuda builds it")
    return path.resolve()


def _kernels(library: Path, asked: list[str]) -> list[str | None]:
    """Return None for the library's choice, and the names of the kernels to force."""
    there = [kernel["name"] for kernel in describe(library)["kernels"]]
    forced = there if asked == ["all"] else asked
    unknown = [name for name in forced if name not in there]
    if unknown:
        raise InputError(f"--kernels: {unknown[0]} is unknown; there are {', '.join(there)}, or all")
    return [None, *forced]


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cuda.bench",
        description="Time the CUDA kernels beside cuBLAS, MatMulNBits and torch's int4 product.",
    )
    parser.add_argument("--library", type=Path, metavar="FILE", help=f"libdualbinary_cuda (default: {VARIABLE})")
    parser.add_argument("--quick", action="store_true", help="two shapes, M 1, 128 and 2048, few rounds")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="JSON file of the measurements; a stopped run continues from it"
    )
    parser.add_argument("--require", action="store_true", help="exit with 1 unless every aim is measured and reached")
    points = parser.add_argument_group("what is measured")
    points.add_argument("--shapes", nargs="+", metavar="NxK", help="outputs x inputs")
    points.add_argument("--rows", nargs="+", type=int, metavar="M", help=f"rows of X (default {ROWS})")
    points.add_argument("--group-sizes", nargs="+", type=int, metavar="G", help=f"default {GROUPS}")
    points.add_argument("--levels", nargs="+", type=int, default=[0, 4], choices=[0, 4], help="accuracy_level")
    points.add_argument("--kernels", nargs="*", default=[], metavar="NAME", help="force these as well, or all")
    points.add_argument("--peers", nargs="*", default=list(PEERS), choices=PEERS, help="default: all")
    points.add_argument(
        "--emulated", action="store_true", help="on the CPU, with the emulated library, to test this command"
    )
    how = parser.add_argument_group("how")
    how.add_argument("--rounds", type=int, help=f"default {FULL['rounds']}, with --quick {QUICK['rounds']}")
    how.add_argument("--seconds", type=float, default=0.02, help="for one contender in a round (default 0.02)")
    add_common_options(parser)
    return run(parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
