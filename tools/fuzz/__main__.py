"""`python -m tools.fuzz --seconds N [--target NAME ..]`: each fuzz target for N seconds, and what was found.

Targets of the C++ library are built with Clang first, with address and undefined-behavior sanitizers; those in Python
need nothing. What a C++ target learned stays in the work folder, so that runs add up; those in Python begin elsewhere
with another --seed. An input that found a defect is a file there, or is printed, and a line says how to run it again;
then the exit code is 1.
"""

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from dualbinary import DualBinaryError, InputError
from dualbinary.cli import console
from tools.fuzz import cpp, python_readers
from tools.fuzz.outcome import Outcome

__all__ = ["main"]


def positive(text: str) -> int:
    """Seconds of an option."""
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a whole number of seconds, 1 or more, got {text}")
    return int(text)


def chosen(names: list[str] | None) -> tuple[list[str], list[str]]:
    """Targets in C++ and in Python: those that are named, or all. Raises InputError for one that is not there."""
    in_cpp, in_python = cpp.targets(), python_readers.targets()
    unknown = sorted(set(names or ()) - {*in_cpp, *in_python})
    if unknown:
        raise InputError(f"--target: expected some of {', '.join([*in_cpp, *in_python])}, got {', '.join(unknown)}")
    if names is None:
        return in_cpp, in_python
    return [name for name in in_cpp if name in names], [name for name in in_python if name in names]


def show(outcome: Outcome) -> None:
    """One line of the table, and one for each crash."""
    print(
        f"{outcome.target:<24} {outcome.executions:>12,} {outcome.seconds:>9.1f} {len(outcome.crashes):>8}", flush=True
    )
    for crash in outcome.crashes:
        print(f"  {crash.what}\n  {crash.reproduce}", flush=True)


def command(args: argparse.Namespace) -> None:
    """Run the targets, --jobs of them at once."""
    in_cpp, in_python = chosen(args.target)
    if args.list:
        print(json.dumps({"cpp": in_cpp, "python": in_python}) if args.json else "\n".join([*in_cpp, *in_python]))
        return
    if in_cpp:
        print(f"building {len(in_cpp)} targets with {cpp.clang()}", file=sys.stderr, flush=True)
        cpp.build(args.jobs)
    if not args.json:
        print(f"{'target':<24} {'executions':>12} {'seconds':>9} {'crashes':>8}")

    def run(name: str) -> Outcome:
        print(f"{name}: {args.seconds} seconds", file=sys.stderr, flush=True)
        if name in in_cpp:
            return cpp.run(name, args.seconds, args.work)
        return python_readers.run(name, args.seconds, args.seed)

    outcomes = []
    with ThreadPoolExecutor(args.jobs) as pool:
        for outcome in pool.map(run, [*in_cpp, *in_python]):
            outcomes.append(outcome)
            if not args.json:
                show(outcome)
    executions = sum(outcome.executions for outcome in outcomes)
    crashes = sum(len(outcome.crashes) for outcome in outcomes)
    if args.json:
        print(json.dumps({"targets": list(map(asdict, outcomes)), "executions": executions, "crashes": crashes}))
    else:
        seconds = sum(outcome.seconds for outcome in outcomes)
        print(f"{'total':<24} {executions:>12,} {seconds:>9.1f} {crashes:>8}")
    if crashes:
        raise DualBinaryError(f"{crashes} inputs found a defect: fix it, and make it a test")


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.fuzz", description="Run fuzz targets of the library and of what reads files."
    )
    parser.add_argument("--seconds", type=positive, default=60, metavar="N", help="for each target (default 60)")
    parser.add_argument("--target", nargs="+", metavar="NAME", help="some of the targets (default: all)")
    parser.add_argument("--list", action="store_true", help="print the names of the targets, and run nothing")
    parser.add_argument(
        "--jobs", type=positive, default=2, metavar="N", help="targets, or compilers, at once (default 2)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the targets in Python (default 0)")
    parser.add_argument(
        "--work", type=Path, default=Path("out/fuzz"), metavar="DIR", help="what targets learned and found"
    )
    console.add_common_options(parser)
    return console.run(parser, command, argv)


if __name__ == "__main__":
    sys.exit(main())
