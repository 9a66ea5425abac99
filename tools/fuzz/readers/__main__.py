"""`python -m tools.fuzz.readers NAME --seconds N [--seed S] [--json]`: fuzz one reader; exit code 1 where it crashed.

Inputs are made by the mutations of mutate.py, the same for the same seed. With --atheris, coverage guides them, one
target at a time: it takes `pip install atheris==3.0.0`, which is no part of this project's requirements.
"""

import argparse
import importlib
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any, NoReturn

from tools.fuzz.readers import TARGETS, Target, target
from tools.fuzz.readers.engine import Crash, Outcome, run_target


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.fuzz.readers", description=__doc__)
    parser.add_argument("name", metavar="NAME", choices=(*TARGETS, "all"), help=f"one of {', '.join(TARGETS)}, or all")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long, for each target (default 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations (default 0)")
    parser.add_argument("--atheris", action="store_true", help="let coverage choose, by atheris 3.0.0")
    parser.add_argument("--json", action="store_true", help="print one JSON object for each target")
    args = parser.parse_args(argv)
    failed = False
    for name in TARGETS if args.name == "all" else (args.name,):
        module = target(name)
        if args.atheris:
            _by_atheris(module, args)
        outcome = run_target(module, seconds=args.seconds, seed=args.seed)
        failed = failed or bool(outcome.crashes)
        _report(outcome, args.json)
    return 1 if failed else 0


def _report(outcome: Outcome, as_json: bool) -> None:
    if as_json:
        print(json.dumps(outcome.to_dict()), flush=True)
        return
    print(f"{outcome.target}: {outcome.executions} inputs in {outcome.seconds:.1f} s, {len(outcome.crashes)} crashes")
    for crash in outcome.crashes.values():
        print(f"  {crash.error}\n    {crash.input[:2000].hex()}", flush=True)


def _by_atheris(module: Target, args: argparse.Namespace) -> NoReturn:
    """Run one target under atheris, which never returns: report where the time is over, and end the process."""
    try:
        atheris: Any = importlib.import_module("atheris")
    except ImportError:
        raise SystemExit("--atheris: expected atheris; pip install atheris==3.0.0, or leave the option out") from None
    outcome, began = Outcome(module.NAME), time.monotonic()

    def one(data: bytes) -> None:
        outcome.executions += 1
        try:
            module.try_input(data)
        except Exception as error:
            outcome.crashes.setdefault(repr(error), Crash(data, f"{type(error).__name__}: {error}"))
        outcome.seconds = time.monotonic() - began
        if outcome.seconds > args.seconds:
            _report(outcome, args.json)
            sys.stdout.flush()
            os._exit(1 if outcome.crashes else 0)

    atheris.instrument_all()
    atheris.Setup([sys.argv[0], f"-seed={args.seed + 1}"], one)
    for seed in module.seeds():
        one(seed)
    atheris.Fuzz()
    raise AssertionError("unreachable")


if __name__ == "__main__":
    raise SystemExit(main())
