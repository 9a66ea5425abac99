"""Worth of each choice of calibration: weight initialization, stages and losses on one model, text and token count.

    python -m studies.calibration_ablation MODEL_DIR WORK_DIR --text train.txt --test test.txt [--steps 30]
    ... --generated FILE in place of --text        sequences that the model wrote

Rows of weight initialization are the stage init alone. The row of the stage block continues from the chosen one; rows
of losses continue from there, each with the same number of steps on the same windows. Every row is `python -m calib`
with the command that is printed, then `python -m calib eval`: perplexity on --test, KL from the full-precision model,
share of equal top tokens, and for losses the change of the negative log likelihood against plain KL, window by window,
with its standard error over windows. Rows that WORK_DIR has already are not made again.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from dualbinary.cli.console import add_common_options, run
from studies.calibration_runs import calibrated, difference, file_name

START = "init error-feedback"
BLOCK = "+ block"
LOSS = "+ e2e "
FORMAT = "--planes 2"  # the same for all layers, so that rows differ in one thing
FEATURES = "--e2e-kl 0 --e2e-mse 1 --e2e-features 1"
PLAIN = LOSS + "KL"  # the other losses are compared with it


@dataclass(frozen=True)
class Row:
    """A row of the table: the row whose checkpoint it starts from, and options of `python -m calib`."""

    name: str
    start: str | None
    options: str


def rows(steps: int) -> list[Row]:
    """List the rows of the table: weight initialization, stages, then losses at equal tokens."""
    e2e = f"--stages e2e --e2e-steps {steps} --e2e-evaluate-every {steps}"
    losses = {
        "KL": "",
        "CE": "--e2e-kl 0 --e2e-ce 1",
        **{f"DAD, gamma {gamma}": f"--e2e-kl 0 --e2e-dad 1 --e2e-gamma {gamma}" for gamma in (0.0, 0.1, 0.5, 0.9)},
        "MSE": "--e2e-kl 0 --e2e-mse 1",
        "MSE, its shift too": "--e2e-kl 0 --e2e-mse 1 --e2e-mse-shift",
        "MSE, features": FEATURES,
        "MSE, features, falling swap": f"{FEATURES} --e2e-swap 0.5",
        "MSE, features, rising swap": f"{FEATURES} --e2e-swap 0.5 --e2e-swap-schedule rising",
        "KL, features": "--e2e-features 0.1",
        "KL, falling swap": "--e2e-swap 0.5",
        "KL, rising swap": "--e2e-swap 0.5 --e2e-swap-schedule rising",
    }
    return [
        Row("init paper", None, f"{FORMAT} --stages init --init-method paper"),
        Row("init fit", None, f"{FORMAT} --stages init --init-method fit"),
        Row("init activation", None, f"{FORMAT} --stages init --init-method activation"),
        Row(START, None, f"{FORMAT} --stages init"),
        Row(BLOCK, None, f"{FORMAT} --stages init,block"),
        Row("init, then e2e KL", START, e2e),
        *(Row(LOSS + name, BLOCK, f"{e2e} {options}") for name, options in losses.items()),
    ]


def _command(args: argparse.Namespace) -> None:
    args.work_dir.mkdir(parents=True, exist_ok=True)
    results: list[dict[str, Any]] = []
    plain: list[float] | None = None
    for row in rows(args.steps):
        if not fnmatchcase(row.name, args.rows):
            continue
        result = {**_row(row, args), "name": row.name}
        plain = result["nll"] if row.name == PLAIN else plain
        if plain is not None and row.name.startswith(LOSS):
            result["against_kl"] = difference(result["nll"], plain)
        results.append(result)
        if not args.json:
            print(_line(result), flush=True)
    if args.json:
        print(json.dumps(results))


def _row(row: Row, args: argparse.Namespace) -> dict[str, Any]:
    start = [] if row.start is None else ["--start", str(args.work_dir / file_name(row.start))]
    source = [word for file in args.text or () for word in ("--text", str(file))]
    source += ["--generate", "0"] if args.text else []
    source += [] if args.generated is None else ["--generated", str(args.generated)]
    arguments = [*source, *row.options.split(), *start, *args.options.split()]
    return calibrated(row.name, args.model_dir, args.work_dir, arguments, args.test)


def _line(result: dict[str, Any]) -> str:
    change, error = result.get("against_kl", (None, None))
    return (
        f"| {result['name']} | {result['perplexity']:.2f} | {result['kl']:.4f} | {result['agreement']:.3f} | "
        f"{'' if change is None else f'{change:+.4f} ± {error:.4f}'} | {result['seconds']:.0f} |"
    )


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m studies.calibration_ablation", description="Worth of each choice of calibration."
    )
    parser.add_argument("model_dir", type=Path, metavar="MODEL_DIR")
    parser.add_argument(
        "work_dir", type=Path, metavar="WORK_DIR", help="checkpoints and results; a stopped run continues from it"
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", type=Path, nargs="+", metavar="FILE", help="to train on")
    source.add_argument("--generated", type=Path, metavar="FILE", help="sequences that the model wrote, to train on")
    parser.add_argument("--test", type=Path, required=True, metavar="FILE", help="to measure on")
    parser.add_argument("--steps", type=int, default=30, help="of each loss (default 30)")
    parser.add_argument(
        "--rows", default="*", metavar="PATTERN", help="rows to make; those they start from must be there"
    )
    parser.add_argument("--options", default="", metavar="TEXT", help="more options for every run, as one word")
    add_common_options(parser)
    return run(parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
