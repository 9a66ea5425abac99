"""`make demo`: a real model from export to text, and what that buys, as a table.

    python -m examples.demo [--threads N] [--repeats N]

Every step is one of the project's commands in a new process, printed before it runs. Speeds are medians on this
machine, now; nothing is compared with numbers from elsewhere.
"""

import argparse
import json
import math
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dualbinary import DualBinaryError
from dualbinary.cli import console
from examples import smollm2

__all__ = ["main"]

# Relative, so that the printed commands can be copied; `make demo` runs in the repository's root.
MODEL = Path(os.path.relpath(smollm2.DEFAULT_DIRECTORY))
OUTPUT = Path(os.path.relpath(smollm2.DEFAULT_DIRECTORY.parent.parent / "out" / "demo"))
PROMPT = "The capital of France is"
COLUMNS = ("model", "file MB", "bits/weight", "load s", "prompt tok/s", "decode tok/s", "peak MB", "decode vs fp32")


@dataclass(frozen=True)
class Row:
    """A line of the table: a model, and the options that it is run with."""

    title: str
    model: Path
    options: tuple[str, ...] = ()


def command(args: argparse.Namespace) -> None:
    """Run the steps and print the table."""
    _run("examples.smollm2", MODEL)
    reference, exported = OUTPUT / "float32" / "model.onnx", OUTPUT / "dualbinary" / "model.onnx"
    _run("examples.reference", MODEL, reference.parent)
    _run("exporter", MODEL, exported, "--check", "--force")
    _run("runtime_ext", "generate", exported, "--prompt", PROMPT, "--max-new-tokens", "16")
    rows = [
        Row("fp32", reference),
        Row("dualbinary", exported),
        Row("dualbinary, no library", exported, ("--no-library",)),
    ]
    options = ("--repeats", str(args.repeats), "--threads", str(args.threads), "--json")
    results = [
        json.loads(_run("runtime_ext", "bench", row.model, *row.options, *options, capture=True)) for row in rows
    ]
    weights = _count_weights(MODEL / "model.safetensors")
    if args.json:
        report = zip(rows, results, strict=True)
        print(json.dumps({row.title: {"file_bytes": _size(row.model), **result} for row, result in report}))
        return
    print()
    print("\n".join(_table(rows, results, weights)))


def _run(module: str, *arguments: object, capture: bool = False) -> str:
    """Run `python -m module arguments`; its standard output if captured. Raises DualBinaryError if it fails."""
    words = ["-m", module, *map(str, arguments)]
    print(f"\n$ python {shlex.join(words)}", file=sys.stderr, flush=True)
    done = subprocess.run([sys.executable, *words], check=False, stdout=subprocess.PIPE if capture else None, text=True)
    if done.returncode:
        raise DualBinaryError(f"`python {shlex.join(words)}` failed with exit code {done.returncode}")
    return done.stdout or ""


def _size(model: Path) -> int:
    """Bytes of the ONNX file and its external data."""
    return sum(file.stat().st_size for file in model.parent.glob(f"{model.name}*"))


def _count_weights(safetensors: Path) -> int:
    """Weights of the model, a tied head counted once: the tensors that a safetensors file's JSON header lists."""
    with safetensors.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")


def _table(rows: list[Row], results: list[dict], weights: int) -> Iterator[str]:
    """The lines of a Markdown table."""
    yield f"| {' | '.join(COLUMNS)} |"
    yield "| --- |" + " ---: |" * (len(COLUMNS) - 1)
    base = results[0]["decode_tokens_per_second"]
    for row, result in zip(rows, results, strict=True):
        peak = result["peak_rss_bytes"]
        cells = (
            row.title,
            f"{_size(row.model) / 1e6:.1f}",
            f"{8 * _size(row.model) / weights:.2f}",
            f"{result['load_seconds']:.2f}",
            f"{result['prompt_tokens_per_second']:.0f}",
            f"{result['decode_tokens_per_second']:.1f}",
            "?" if peak is None else f"{peak / 1e6:.0f}",
            f"{result['decode_tokens_per_second'] / base:.2f}x",
        )
        yield f"| {' | '.join(cells)} |"


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description="A real model, from export to text.")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="0 (default): one for each core")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="measured repeats (default 3)")
    console.add_common_options(parser)
    return console.run(parser, command, argv)


if __name__ == "__main__":
    sys.exit(main())
