"""Load time and memory of exported models: stored layouts side by side.

    python -m benchmarks.models.load_time plain/model.onnx avx512/model.onnx [--rounds N] [--threads T] [--json]

`dualbinary relayout` makes a file of another layout. Each file is loaded in a new process, in turn, round after
round; the first round only warms the page cache and is not counted. Numbers are medians. Linux only.

    load          seconds to a session that is ready, without imports
    token         seconds of the first token: a mapped file is read when it is first used
    anon          resident memory that belongs to no file when the session is ready: what cannot be dropped or shared
    peak          peak memory of the process until then, in bytes and as a share of the model's file
    own peak      peak less what the process had before: Python, NumPy and ONNX Runtime
    peak, token   peak memory after the first token
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import REPOSITORY
from benchmarks.common.machine import OtherLoad, machine
from benchmarks.models.variants import file_bytes
from dualbinary import DualBinaryError, InputError
from dualbinary.cli.console import add_common_options, run

__all__ = ["main", "measure"]

_COLUMNS = ("load", "token", "anon", "peak", "own peak", "peak, token")


def measure(paths: list[Path], rounds: int, threads: int) -> dict[str, dict[str, float]]:
    """Measure the median of each column for each path. Raises DualBinaryError where a model does not load."""
    found: dict[Path, list[dict[str, float]]] = {path: [] for path in paths}
    for _ in range(rounds + 1):
        for path in paths:
            command = [sys.executable, "-m", "benchmarks.models.load_once", str(path), str(threads)]
            done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=REPOSITORY)
            if done.returncode:
                raise DualBinaryError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
            found[path].append(json.loads(done.stdout))
    return {
        str(path): {column: median(each[column] for each in results[1:]) for column in _COLUMNS}
        | {"file": file_bytes(path)}
        for path, results in found.items()
    }


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    result = argparse.ArgumentParser(
        prog="python -m benchmarks.models.load_time",
        description="Load time and memory of exported models, in fresh processes, in turn.",
    )
    result.add_argument("models", type=Path, nargs="+", metavar="OUT.onnx", help="exported models")
    result.add_argument("--rounds", type=int, default=9, metavar="N", help="rounds that count (default 9)")
    result.add_argument("--threads", type=int, default=2, metavar="T", help="threads of a session (default 2)")
    add_common_options(result)
    return result


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run(parser(), _command, argv)


def _command(args: argparse.Namespace) -> None:
    if args.rounds < 1:
        raise InputError(f"--rounds: expected at least 1, got {args.rounds}")
    paths = [path.resolve() for path in args.models]
    with OtherLoad() as other:
        models = measure(paths, args.rounds, args.threads)
    facts: dict[str, Any] = {"machine": machine(), "rounds": args.rounds, "threads": args.threads}
    facts |= {"other_cores": other.cores, "models": models}
    if args.json:
        print(json.dumps(facts))
        return
    print("| model | file | load | token | anon | peak | of the file | own peak | peak, token |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for path, row in models.items():
        sizes = [f"{row[name] / 1e6:.0f} MB" for name in ("anon", "peak", "own peak", "peak, token")]
        sizes.insert(2, f"{row['peak'] / row['file']:.2f}")
        name = Path(path).relative_to(Path(path).parent.parent)
        times = f"{row['load'] * 1e3:.0f} ms | {row['token'] * 1e3:.0f} ms"
        print(f"| {name} | {row['file'] / 1e6:.0f} MB | {times} | {' | '.join(sizes)} |")
    print(f"\nother processes took {other.cores} cores", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
