"""`python -m tools.compat [OUT.onnx ...]`: models on other versions of ONNX Runtime and Python, token by token.

Each version gets an environment of its own with ONNX Runtime, NumPy and what the tokenizer takes, and nothing else; the
packages of this checkout run there, with the library and by the functions inside the model. A row is a model in one of
them, held against the tokens of this environment; models that do not run in this one, as those for the CPUs of others,
are left out. Without a model it is the golden files (`tests/data/versions`) and SmolLM2-135M-Instruct. A row that
differs, and an error that is not a sentence of this project, make the exit code 1.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import runtime_ext
from dualbinary import DualBinaryError
from dualbinary.cli import console
from tools.compat.versions import ORT_VERSIONS, PYTHONS, Host, NotHereError, host_of_onnxruntime, host_of_python

__all__ = ["answers", "main"]

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "data" / "versions"
PROBE = Path(__file__).with_name("probe.py")
PROMPT = (3, 5, 8, 13, 21, 34)
SAME, DIFFERENT, REFUSED, FAILED, NOT_HERE = "same", "DIFFERENT", "refused", "FAILED", "not here"
WAYS = ("library", "function")


@dataclass(frozen=True)
class Row:
    """A model in one environment. `detail` is the message of a refusal or a failure."""

    host: str
    way: str
    model: str
    result: str
    detail: str = ""


def answers(python: Path, models: list[Path], way: str, count: int) -> list[dict[str, object]]:
    """What the probe says of each model. One that ends the process is an error that is not this project's."""
    paths = {"PYTHONPATH": str(ROOT), "DUALBINARY_LIBRARY": str(runtime_ext.library_path())}
    found: list[dict[str, object]] = []
    while len(found) < len(models):
        rest = [str(model.resolve()) for model in models[len(found) :]]
        words = [python, PROBE, way, str(count), *map(str, PROMPT), "--", *rest]
        done = subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, **paths})
        found += [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["no message"])[-1]
            how = f"ended by signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
            # The error is the next model's; where the process ended behind the last one's line, it takes that place.
            found[len(models) - 1 :] = [{"error": f"{how}: {said}", "ours": False}]
    return found


def compare(host: Host, models: list[Path], expected: list[dict[str, object]], count: int) -> Iterator[Row]:
    """The rows of an environment."""
    python = host.python()
    for way in WAYS:
        for model, said, right in zip(models, answers(python, models, way, count), expected, strict=True):
            name = f"{model.parent.name}/{model.name}"
            if "tokens" in said:
                same = said["tokens"] == right["tokens"]
                yield Row(host.name, way, name, SAME if same else DIFFERENT, "" if same else str(said["tokens"]))
            else:
                yield Row(host.name, way, name, REFUSED if said["ours"] else FAILED, str(said["error"]))


def exported() -> Path:
    """Return the demo's export of SmolLM2-135M-Instruct, made now if it was not."""
    from tools.hosts.__main__ import exported as exported_by_hosts

    return exported_by_hosts()[0]


def _hosts(args: argparse.Namespace) -> Iterator[Host | Row]:
    for version in args.onnxruntime:
        try:
            yield host_of_onnxruntime(version, args.work)
        except (NotHereError, DualBinaryError) as error:
            yield Row(f"ONNX Runtime {version}", "", "", NOT_HERE, str(error))
    for version in args.pythons:
        try:
            yield host_of_python(version, args.work)
        except (NotHereError, DualBinaryError) as error:
            yield Row(f"Python {version}", "", "", NOT_HERE, str(error))


def command(args: argparse.Namespace) -> None:
    """Run all environments and print the table."""
    models = args.models or [*sorted(GOLDEN.glob("*/model.onnx")), exported()]
    args.work.mkdir(parents=True, exist_ok=True)
    models, expected = _expected(models, args.count)
    rows: list[Row] = []
    for host in _hosts(args):
        for row in [host] if isinstance(host, Row) else _rows(host, models, expected, args.count):
            rows.append(row)
            if not args.json:
                detail = " ".join(row.detail.split())
                print(f"{row.host:<34} {row.way:<9} {row.model:<28} {row.result:<10} {detail}".rstrip(), flush=True)
    if args.json:
        print(json.dumps({"rows": [asdict(row) for row in rows]}))
    wrong = sum(row.result in (DIFFERENT, FAILED) for row in rows)
    if wrong:
        raise DualBinaryError(f"{wrong} of {len(rows)} rows differ or failed")


def _expected(models: list[Path], count: int) -> tuple[list[Path], list[dict[str, object]]]:
    """The models that run in this environment, and their tokens. Raises DualBinaryError where there are none."""
    said = answers(Path(sys.executable), models, "library", count)
    pairs = [(model, each) for model, each in zip(models, said, strict=True) if "tokens" in each]
    if not pairs:
        raise DualBinaryError(f"{models[0]}: does not run in this environment: {said[0]['error']}")
    return [model for model, _ in pairs], [each for _, each in pairs]


def _rows(host: Host, models: list[Path], expected: list[dict[str, object]], count: int) -> Iterator[Row]:
    try:
        yield from compare(host, models, expected, count)
    except DualBinaryError as error:  # its environment cannot be made
        yield Row(host.name, "", "", NOT_HERE, str(error))


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.compat", description="Models on other versions, token by token."
    )
    parser.add_argument("models", type=Path, nargs="*", metavar="OUT.onnx", help="default: golden files and SmolLM2")
    parser.add_argument(
        "--onnxruntime", nargs="*", default=ORT_VERSIONS, metavar="VERSION", help=f"(default {' '.join(ORT_VERSIONS)})"
    )
    parser.add_argument(
        "--pythons", nargs="*", default=PYTHONS, metavar="VERSION", help=f"(default {' '.join(PYTHONS)})"
    )
    parser.add_argument("--count", type=int, default=16, metavar="N", help="new tokens (default 16)")
    parser.add_argument(
        "--work", type=Path, default=Path("out/compat"), metavar="DIR", help="where environments are kept"
    )
    console.add_common_options(parser)
    return console.run(parser, command, argv)


if __name__ == "__main__":
    sys.exit(main())
