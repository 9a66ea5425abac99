"""`python -m tools.soak.leaks OUT.onnx`: what a load leaves behind when it ends, by heaptrack.

    python -m tools.soak.leaks OUT.onnx [--requests 20 100] [--only LOAD ...] [--json]

Runs `python -m tools.soak` twice under heaptrack, with few and with many requests. What ONNX Runtime and Python keep to
the end is the same in both; what grows with the number of requests is a leak. heaptrack sees every allocation of the
process: malloc, operator new, and those of the library among them. More than ALLOWED bytes a request make the exit code
1: Python's own arenas and caches differ by some kilobytes from run to run.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from dualbinary import DualBinaryError, InputError
from dualbinary.cli import console

__all__ = ["main"]

LOADS = ("own_sessions", "ragged_batch", "shared_session")  # those that run in the process itself
ALLOWED = 256  # bytes a request
UNITS = {"B": 1, "K": 10**3, "M": 10**6, "G": 10**9}
LEAKED = re.compile(r"total memory leaked: ([\d.]+)([BKMG])")


def leaked(model: Path, loads: list[str], requests: int, threads: int) -> int:
    """Bytes that a process has not given back after so many requests of each load. Raises DualBinaryError."""
    with tempfile.TemporaryDirectory() as name:
        record = Path(name) / "heap"
        command = [sys.executable, "-m", "tools.soak", str(model), "--only", *loads, "--requests", str(requests)]
        command += ["--seconds", "100000", "--threads", str(threads), "--json"]
        done = subprocess.run(["heaptrack", "-o", str(record), *command], capture_output=True, text=True, check=False)
        if done.returncode:
            raise DualBinaryError(f"the load failed under heaptrack: {done.stderr.strip()[-300:]}")
        (file,) = Path(name).glob("heap*")
        flags = ["--print-peaks=0", "--print-allocators=0", "--print-temporary=0"]
        shown = subprocess.run(
            ["heaptrack_print", *flags, str(file)], capture_output=True, text=True, check=False
        ).stdout
    found = LEAKED.search(shown)
    if found is None:
        raise DualBinaryError("heaptrack_print states no total of leaked memory")
    return round(float(found[1]) * UNITS[found[2]])


def command(args: argparse.Namespace) -> None:
    """Run both, and say what a request leaves behind."""
    if shutil.which("heaptrack") is None:
        raise InputError("heaptrack is not here; install it (Debian: apt-get install heaptrack)")
    few, many = args.requests
    if not 1 <= few < many:
        raise InputError(f"--requests: expected two numbers, the second one larger, got {few} and {many}")
    before, after = (leaked(args.model, args.only, count, args.threads) for count in (few, many))
    each = (after - before) / ((many - few) * len(args.only))
    if args.json:
        print(json.dumps({"model": str(args.model), "few": before, "many": after, "bytes_per_request": each}))
    else:
        print(
            f"left at the end: {before / 1e6:.2f} MB after {few} requests of each load, "
            f"{after / 1e6:.2f} MB after {many}"
        )
        print(f"that is {each:.0f} bytes a request")
    if each > ALLOWED:
        raise DualBinaryError(f"{each:.0f} bytes a request are lost, expected at most {ALLOWED}")


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.soak.leaks", description="What a load leaves behind, by heaptrack."
    )
    parser.add_argument("model", type=Path, metavar="OUT.onnx", help="an exported model")
    parser.add_argument(
        "--requests", type=int, nargs=2, default=[20, 100], metavar="N", help="of each load, few and many (20 and 100)"
    )
    parser.add_argument("--only", nargs="+", choices=LOADS, default=list(LOADS), metavar="LOAD", help="default all")
    parser.add_argument("--threads", type=int, default=8, metavar="T", help="that ask at once (default 8)")
    console.add_common_options(parser)
    return console.run(parser, command, argv)


if __name__ == "__main__":
    sys.exit(main())
