"""`python -m tools.next [--only NAME ...]`: the newest release of each package below this project, and what breaks.

Each gets an environment that lies over this one and has the newest release in it, with the pins for all else; at last
all of them are together. A short set of tests runs there: exports of checkpoints of every version, the exporter's
command, the decoder, and onnxruntime-genai beside it. A package that the pins leave no room for is a row, too: what
pip says is what breaks. Packages that are at their newest already are not tried alone. What breaks makes the exit
code 1.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from dualbinary import DualBinaryError
from dualbinary.cli.console import add_common_options, run
from tools.environments import Environment, newest_version

__all__ = ["PACKAGES", "Row", "first_failure", "pinned"]

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = ROOT / "constraints.txt"
PACKAGES = ("transformers", "onnx", "mobius-onnx", "onnxruntime", "onnxruntime-genai")
ALL = "all together"
TESTS = (
    "tests/e2e/test_versions.py",
    "tests/exporter/test_command.py",
    "tests/runtime/test_decoder.py",
    "tests/e2e/test_genai.py",
)
SAME, NEWEST, BREAKS, NO_ROOM = "works", "is the newest", "BREAKS", "no room"


@dataclass(frozen=True)
class Row:
    """A package at its newest release, or several, and what happened."""

    package: str
    pinned: str
    newest: str
    result: str
    detail: str = ""


def pinned(text: str) -> dict[str, str]:
    """Versions by name in a file of constraints."""
    return dict(re.findall(r"^([\w.-]+)==(\S+)$", text, flags=re.MULTILINE))


def first_failure(output: str) -> str:
    """The first line of pytest's output that says what failed."""
    lines = output.splitlines()
    found = next((line for line in lines if line.startswith(("FAILED ", "ERROR "))), "")
    return found or next((line for line in lines if line.startswith("E  ")), "") or (lines or ["no output"])[-1]


def tried(name: str, versions: dict[str, str], pins: dict[str, str], args: argparse.Namespace) -> tuple[str, str]:
    """Install `versions` over this environment and run the tests. Returns the result and what breaks."""
    others = "".join(f"{each}=={version}\n" for each, version in pins.items() if each not in versions)
    folder = args.work.resolve() / name.replace(" ", "-")
    folder.parent.mkdir(parents=True, exist_ok=True)
    constraints = folder.with_suffix(".txt")
    constraints.write_text(others, encoding="utf-8")
    packages = tuple(f"{each}=={version}" for each, version in versions.items())
    try:
        python = Environment(folder, packages, constraints, below=Path(sys.executable)).python()
    except DualBinaryError as error:
        return NO_ROOM, str(error).partition(" failed: ")[2] or str(error)
    with tempfile.TemporaryDirectory() as cache:
        words = [python, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not slow", *args.tests]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPYCACHEPREFIX": cache}
        try:
            done = subprocess.run(
                words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=args.timeout
            )
        except subprocess.TimeoutExpired:
            return BREAKS, f"no end after {args.timeout} seconds"
    return (SAME, "") if done.returncode == 0 else (BREAKS, first_failure(done.stdout + done.stderr))


def rows(args: argparse.Namespace) -> list[Row]:
    """A row for each package, and one for all that have a newer release."""
    pins = pinned(CONSTRAINTS.read_text(encoding="utf-8"))
    newest = {name: newest_version(name) for name in args.only or PACKAGES}
    newer = {name: version for name, version in newest.items() if version != pins[name]}
    found: list[Row] = []
    for name, version in newest.items():
        result = tried(name, {name: version}, pins, args) if name in newer else (NEWEST, "")
        found.append(Row(name, pins[name], version, *result))
        _show(found[-1], args)
    if len(newer) > 1:
        versions = ", ".join(f"{name} {version}" for name, version in newer.items())
        found.append(Row(ALL, "", versions, *tried(ALL, newer, pins, args)))
        _show(found[-1], args)
    return found


def _show(row: Row, args: argparse.Namespace) -> None:
    if not args.json:
        print(f"{row.package:<18} {row.pinned:<8} {row.newest:<10} {row.result:<14} {row.detail}".rstrip(), flush=True)


def _command(args: argparse.Namespace) -> None:
    found = rows(args)
    if args.json:
        print(json.dumps({"rows": [asdict(row) for row in found]}))
    wrong = [row.package for row in found if row.result in (BREAKS, NO_ROOM)]
    if wrong:
        raise DualBinaryError(f"{len(wrong)} of {len(found)} rows break: {', '.join(wrong)}")


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m tools.next", description="The newest of each package.")
    parser.add_argument("--only", nargs="+", choices=PACKAGES, metavar="NAME", help=f"some of {', '.join(PACKAGES)}")
    parser.add_argument("--tests", nargs="+", default=TESTS, metavar="FILE", help=f"(default {' '.join(TESTS)})")
    parser.add_argument("--timeout", type=int, default=900, metavar="S", help="for the tests of a row (default 900)")
    parser.add_argument(
        "--work", type=Path, default=Path("out/next"), metavar="DIR", help="where environments are kept"
    )
    add_common_options(parser)
    return run(parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
