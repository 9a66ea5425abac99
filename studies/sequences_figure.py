"""Perplexity by number of training sequences that the model wrote: any of them, against those that a filter kept.

    python -m studies.sequences_figure MODEL_DIR WORK_DIR --generated FILE --start CHECKPOINT --test test.txt

FILE is OUT_DIR.generated.safetensors of a run with --generate. Each point continues from CHECKPOINT with one pass over
K sequences, as many steps, `python -m calib ... --keep K --keep-by random | discrepancy`, then `python -m calib eval`:
so points of one K cost the same but for the scores, which the first filtered point makes for all. A larger K keeps what
a smaller one does. Points that WORK_DIR has already are not made again; the picture is drawn again after each one.
"""

import argparse
import io
import json
import sys
from pathlib import Path
from typing import Any

from calib.report.record import RECORD_FILE
from dualbinary import InputError
from dualbinary.cli.console import add_common_options, run
from dualbinary.files.atomic import write_text
from dualbinary.pages.drawing import NO_METADATA, STYLE
from studies.calibration_runs import calibrated, difference

KINDS = {"random": "#8a94a6", "discrepancy": "#c05621"}  # and their colors
PANELS = {"perplexity": "perplexity", "kl": "KL from full precision, nats per token"}
PICTURE, POINTS = "sequences.svg", "sequences.json"


def points(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Make all points in order of K; files of WORK_DIR grow with them."""
    result: list[dict[str, Any]] = []
    for count in sorted(args.counts):
        for kind in KINDS:
            point = {"sequences": count, "by": kind, **_point(count, kind, args)}
            if kind == "discrepancy":
                point["against_random"] = difference(point["nll"], result[-1]["nll"])
            result.append(point)
            write_text(args.work_dir / POINTS, json.dumps(result))
            write_text(args.work_dir / PICTURE, picture(result))
            if not args.json:
                print(_line(point), flush=True)
    return result


def _point(count: int, kind: str, args: argparse.Namespace) -> dict[str, Any]:
    steps = f"--stages e2e --e2e-steps {count} --e2e-evaluate-every {count} --keep {count} --keep-by {kind}"
    scored = args.work_dir / _name("discrepancy", min(args.counts)) / RECORD_FILE
    scores = ["--scores", str(scored)] if kind == "discrepancy" and scored.is_file() else []
    arguments = ["--generated", str(args.generated), "--start", str(args.start), *steps.split()]
    arguments += [*scores, *args.options.split()]
    result = calibrated(_name(kind, count), args.model_dir, args.work_dir, arguments, args.test)
    record = json.loads((args.work_dir / _name(kind, count) / RECORD_FILE).read_text())
    chosen = record["filter"]
    distinct = sum(chosen["distinct"][index] for index in chosen["chosen"]) / count
    return {**result, "distinct": distinct, "held_out": record["e2e"]["best_loss"]}


def _name(kind: str, count: int) -> str:
    return f"{kind}-{count}"


def picture(found: list[dict[str, Any]]) -> str:
    """Draw the figure as SVG: perplexity, and KL from the full-precision model, by number of sequences."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    file = io.StringIO()
    with rc_context(STYLE):
        figure = Figure(figsize=(9.0, 3.2), layout="constrained")
        for axes, (key, label) in zip(figure.subplots(1, 2), PANELS.items(), strict=True):
            for kind, color in KINDS.items():
                rows = [point for point in found if point["by"] == kind]
                line = [point["sequences"] for point in rows], [point[key] for point in rows]
                axes.plot(*line, marker="o", color=color, label=f"by {kind}" if kind == "discrepancy" else kind)
            axes.set(xlabel="training sequences, one pass", ylabel=label)
            axes.set_xscale("log", base=2)
            ticks = sorted({point["sequences"] for point in found})
            axes.set_xticks(ticks, [str(tick) for tick in ticks])
            axes.legend(frameon=False)
        figure.savefig(file, format="svg", metadata=NO_METADATA)
    return file.getvalue()


def _line(point: dict[str, Any]) -> str:
    change = point.get("against_random")
    return (
        f"| {point['sequences']} | {point['by']} | {point['perplexity']:.2f} | {point['kl']:.4f} | "
        f"{point['agreement']:.3f} | {'' if change is None else f'{change[0]:+.4f} ± {change[1]:.4f}'} | "
        f"{point['distinct']:.3f} | {point['held_out']:.4f} |"
    )


def _command(args: argparse.Namespace) -> None:
    if min(args.counts) < 1:
        raise InputError(f"--counts: expected numbers of sequences above 0, got {args.counts}")
    args.work_dir.mkdir(parents=True, exist_ok=True)
    found = points(args)
    if args.json:
        print(json.dumps(found))
    else:
        print(args.work_dir / PICTURE)


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m studies.sequences_figure",
        description="Perplexity by number of training sequences, random against filtered.",
    )
    parser.add_argument("model_dir", type=Path, metavar="MODEL_DIR")
    parser.add_argument("work_dir", type=Path, metavar="WORK_DIR", help="checkpoints, results, the picture")
    parser.add_argument("--generated", type=Path, required=True, metavar="FILE", help="sequences that the model wrote")
    parser.add_argument("--start", type=Path, required=True, metavar="CHECKPOINT", help="every point continues from it")
    parser.add_argument("--test", type=Path, required=True, metavar="FILE", help="text to measure on")
    parser.add_argument(
        "--counts", type=int, nargs="+", default=[16, 32, 64, 128], metavar="K", help="numbers of sequences"
    )
    parser.add_argument("--options", default="", metavar="TEXT", help="more options for every run, as one word")
    add_common_options(parser)
    return run(parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
