"""`python -m tools.hosts [OUT.onnx --source DIR]`: one export on every host that this machine has, token by token.

Each file of this room is a host. All continue the same prompt greedily; the table says which agree with ONNX Runtime
and the library, which differ and from which token on, and why others did not run. Without a model it exports
SmolLM2-135M-Instruct, as the demo does. A host that differs or fails makes the exit code 1, one that is not here does
not.
"""

import argparse
import importlib
import json
import pkgutil
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from dualbinary import DualBinaryError, InputError
from dualbinary.cli import console
from runtime_ext.text import TextCodec
from tools import hosts
from tools.hosts.task import Host, NotHereError, Task, host_of

__all__ = ["main"]

REFERENCE = "onnxruntime_library"
ROOM = ("__main__", "npm", "task")  # files that are no hosts
ROOT = Path(__file__).resolve().parents[2]
SAME, DIFFERENT, FAILED, NOT_HERE = "same", "DIFFERENT", "FAILED", "not here"


@dataclass(frozen=True)
class Row:
    """What a host did: its tokens, or why there are none; seconds with everything that it had to start."""

    host: str
    result: str
    seconds: float
    detail: str
    tokens: list[int] | None


def names() -> list[str]:
    """Return the files of this room that are hosts, the one that others are held against first."""
    found = {module.name for module in pkgutil.iter_modules(hosts.__path__)} - {*ROOM, REFERENCE}
    return [REFERENCE, *sorted(found)]


def ask(host: Host, task: Task, expected: list[int] | None) -> Row:
    """Run one host. Whatever it raises is its row: one that fails must not hide those after it."""
    begin = time.perf_counter()
    tokens, detail = None, ""
    try:
        tokens = [int(token) for token in host.tokens(task)]
    except NotHereError as error:
        result, detail = NOT_HERE, str(error)
    except Exception as error:
        result, detail = FAILED, f"{type(error).__name__}: {error}"
    else:
        expected = tokens if expected is None else expected
        result = SAME if tokens == expected else DIFFERENT
        if result == DIFFERENT:
            pairs = zip(tokens, expected, strict=False)
            first = next((i for i, (mine, other) in enumerate(pairs) if mine != other), min(len(tokens), len(expected)))
            detail = f"from token {first + 1} on; {len(tokens)} tokens"
    return Row(host.NAME, result, time.perf_counter() - begin, " ".join(detail.split()), tokens)


def exported() -> tuple[Path, Path]:
    """Return the demo's export, made now if it was not, and the model directory that it was made of."""
    from examples import smollm2
    from exporter.options import ExportOptions
    from exporter.pipeline import export

    source = smollm2.prepare()
    model = ROOT / "out" / "demo" / "dualbinary" / "model.onnx"
    if not model.exists():
        export(source, model, ExportOptions())
    return model, source


def command(args: argparse.Namespace) -> None:
    """Run the hosts one after another and print the table."""
    if (args.model is None) != (args.source is None):
        raise InputError("expected OUT.onnx and --source together, or neither for SmolLM2-135M-Instruct")
    chosen = names() if args.only is None else [REFERENCE, *(name for name in args.only if name != REFERENCE)]
    model, source = exported() if args.model is None else (args.model, args.source)
    args.work.mkdir(parents=True, exist_ok=True)
    prompt = TextCodec(model.parent).encode(args.prompt)
    task = Task(model.resolve(), source.resolve(), args.work.resolve(), tuple(prompt), args.count)
    rows: list[Row] = []
    for name in chosen:
        row = ask(host_of(importlib.import_module(f"tools.hosts.{name}")), task, rows[0].tokens if rows else None)
        rows.append(row)
        if name == REFERENCE and row.tokens is not None and len(row.tokens) < args.count:
            raise InputError(
                f"the text ends after {len(row.tokens)} tokens: expected a --prompt or a --count without that"
            )
        if not args.json:
            print(f"{row.host:<44} {row.result:<10} {row.seconds:7.1f} s  {row.detail}".rstrip(), flush=True)
    if args.json:
        print(json.dumps({"model": str(model), "prompt_ids": prompt, "hosts": [asdict(row) for row in rows]}))
    wrong = [row.host for row in rows if row.result in (DIFFERENT, FAILED)]
    if wrong:
        raise DualBinaryError(f"{len(wrong)} of {len(rows)} hosts did not give the same tokens: {', '.join(wrong)}")


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.hosts", description="One export on every host that this machine has, token by token."
    )
    parser.add_argument("model", type=Path, nargs="?", metavar="OUT.onnx", help="default: SmolLM2-135M-Instruct")
    parser.add_argument("--source", type=Path, metavar="DIR", help="what OUT.onnx was made of: a model or a checkpoint")
    parser.add_argument("--prompt", default="Once upon a time", metavar="TEXT")
    parser.add_argument("--count", type=int, default=32, metavar="N", help="new tokens (default 32)")
    parser.add_argument("--only", nargs="+", choices=names(), metavar="HOST", help=f"some of {', '.join(names())}")
    parser.add_argument("--work", type=Path, default=Path("out/hosts"), metavar="DIR", help="what hosts build and keep")
    console.add_common_options(parser)
    return console.run(parser, command, argv)


if __name__ == "__main__":
    sys.exit(main())
