"""`python -m tools.faults`: kill, starve and damage what the commands do, and say what came of it.

    python -m tools.faults                           all kinds, some minutes
    python -m tools.faults kills --kills 300         one kind
    python -m tools.faults --json --seed 7

A kind is a file of this room. Exit code 1 where anything was lost, half written, or ended in another way than it may.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from dualbinary.cli import console
from dualbinary.errors import DualBinaryError

__all__ = ["main"]

KINDS = ("kills", "crashes", "interrupts", "disks", "gone", "damage", "memory")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    text = "Kill, starve and damage what the commands do, and say what came of it."
    result = argparse.ArgumentParser(prog="python -m tools.faults", description=text)
    result.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)}; default: all")
    result.add_argument("--kills", type=int, default=60, help="times a command is killed, over all cases of a kind")
    result.add_argument("--seed", type=int, default=0, help="of the moments")
    result.add_argument("--every", type=int, default=1, help="before each N-th change of files alone, in crashes")
    result.add_argument("--only", metavar="WORD", default="", help="only cases whose name has this in it")
    result.add_argument("--room", type=Path, help="directory to work in; default: a temporary one")
    console.add_common_options(result)
    return result


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return console.run(parser(), _command, argv)


def _command(args: argparse.Namespace) -> None:
    from tools.faults.kinds import Asked, run_kinds

    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-", dir=args.room) as room:
        rows = run_kinds(args.kinds or KINDS, Path(room), Asked(args.kills, args.seed, args.only, args.every))
    wrong = sum(len(row["wrong"]) for row in rows)
    if args.json:
        print(json.dumps({"seconds": round(time.monotonic() - begin, 1), "seed": args.seed, "rows": rows}))
    else:
        for row in rows:
            print(f"{row['kind']:<12} {row['name']:<28} {row['tried']:>5}  {row['outcome']}")
    if wrong:
        raise DualBinaryError(f"{wrong} of the above went wrong")


if __name__ == "__main__":
    sys.exit(main())
