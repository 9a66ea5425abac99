"""QBB's figures about layers: error by weight initialization, solver and number of bases, and share of flipped bits.

    python -m studies.qbb_figures MODEL_DIR OUT_DIR [--blocks 0 15 29] [--bases 3] [--group-size 64]

    starts.svg      each layer after each weight initialization, and after the chosen solver (--solver)
    solvers.svg     each layer after the cascaded initialization, and after each solver from there
    bases.svg       the error over 1 to 4 bases, after the cascaded initialization and each solver; mean over the layers
    flipped.svg     for each basis the share of bits that differ from the cascaded initialization, after each solver
    figures.json    all numbers, which --json prints as well

The error of a layer is ||W - W'||^2 / ||W||^2 with scales as they are stored; means count a layer by its weights. The
gradient solvers take some seconds per million weights and basis, so choose a few blocks where time is short.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from calib.config import FormatConfig, InitConfig, LayerConfig
from calib.layers import QuantLinear, quant_linears
from calib.models.source import SourceModel
from calib.stages.layerwise import binarize
from calib.weight_init import WEIGHT_INITS
from dualbinary import InputError
from dualbinary.cli.console import add_common_options, run
from dualbinary.files.atomic import write_text
from dualbinary.pages.drawing import SERIES_COLORS, dots, new_figure, positive_log, svg

__all__ = ["Row", "measure"]

STARTS = tuple(name for name, method in WEIGHT_INITS.items() if method.methods == ("qbb",))
CASCADED = "cascaded"
SOLVERS = ("closed-form", "iterative", "simultaneous")
MAX_BASES = 4
RESULT = "figures.json"


@dataclass(frozen=True)
class Row:
    """A layer, from one weight initialization to one solver's result."""

    layer: str
    weights: int
    bases: int
    start: str
    solver: str
    before: float
    after: float
    flipped: list[float]
    seconds: float


def measure(layer: QuantLinear, bases: int, group_size: int, start: str, config: LayerConfig) -> Row:
    """Run one solver on a loaded layer."""
    weight = layer.weight.float()
    plane_format = FormatConfig(method="qbb", planes=bases, group_size=group_size).plane_format.for_inputs(
        layer.in_features
    )
    state = WEIGHT_INITS[start].make(InitConfig(refits=4, polishes=2), 0)(weight, None, plane_format, layer.name)
    begin = time.perf_counter()
    found = binarize(weight, state, plane_format, config, layer.name)
    seconds = time.perf_counter() - begin
    return Row(
        layer.name, weight.numel(), bases, start, config.solver, found.before, found.after, found.flipped, seconds
    )


def cases(args: argparse.Namespace) -> list[tuple[int, str, str]]:
    """List (bases, start, solver) of every measurement, each once."""
    wanted = [(args.bases, start, args.solver) for start in STARTS]
    wanted += [(bases, CASCADED, solver) for bases in range(1, MAX_BASES + 1) for solver in SOLVERS]
    return list(dict.fromkeys(wanted))


def draw(rows: list[Row], bases: int, solver: str) -> dict[str, str]:
    """Draw the pictures: SVG by file name."""
    return {
        "starts.svg": _starts([row for row in rows if row.bases == bases and row.solver == solver]),
        "solvers.svg": _solvers([row for row in rows if row.bases == bases and row.start == CASCADED]),
        "bases.svg": _bases([row for row in rows if row.start == CASCADED]),
        "flipped.svg": _flipped([row for row in rows if row.bases == bases and row.start == CASCADED]),
    }


def _starts(rows: list[Row]) -> str:
    figure, panels = new_figure(2)
    for axes, key, title in zip(panels, ("before", "after"), ("start", "start and layer-wise"), strict=True):
        for start, color in zip(STARTS, SERIES_COLORS, strict=False):
            dots(axes, [getattr(row, key) for row in rows if row.start == start], start, color)
        positive_log(axes, [getattr(row, key) for row in rows])
        axes.set(xlabel="layer", ylabel="relative squared error", title=title)
    return svg(figure, "starts")


def _solvers(rows: list[Row]) -> str:
    figure, (axes,) = new_figure(1)
    dots(axes, [row.before for row in rows if row.solver == SOLVERS[0]], "start", SERIES_COLORS[-1])
    for solver, color in zip(SOLVERS, SERIES_COLORS, strict=False):
        dots(axes, [row.after for row in rows if row.solver == solver], solver, color)
    positive_log(axes, [error for row in rows for error in (row.before, row.after)])
    axes.set(xlabel="layer", ylabel="relative squared error")
    return svg(figure, "solvers")


def _bases(rows: list[Row]) -> str:
    figure, (axes,) = new_figure(1)
    counts = list(range(1, MAX_BASES + 1))
    means = summary(rows)
    series = {"start": [means[f"{n} {CASCADED} {SOLVERS[0]}"]["before"] for n in counts]}
    series |= {solver: [means[f"{n} {CASCADED} {solver}"]["after"] for n in counts] for solver in SOLVERS}
    for (name, values), color in zip(series.items(), (SERIES_COLORS[-1], *SERIES_COLORS), strict=False):
        axes.plot(counts, values, marker="o", markersize=4, label=name, color=color)
    axes.set_xticks(counts)
    positive_log(axes, [value for values in series.values() for value in values])
    axes.set(xlabel="bases", ylabel="relative squared error")
    return svg(figure, "bases")


def _flipped(rows: list[Row]) -> str:
    figure, panels = new_figure(len(SOLVERS))
    for axes, solver in zip(panels, SOLVERS, strict=True):
        chosen = [row for row in rows if row.solver == solver]
        for basis in range(len(chosen[0].flipped)):
            dots(axes, [row.flipped[basis] for row in chosen], f"basis {basis + 1}", SERIES_COLORS[basis])
        axes.set(xlabel="layer", ylabel="share of flipped bits", title=solver, ylim=(-0.02, 0.62))
    return svg(figure, "flipped")


def summary(rows: list[Row]) -> dict[str, dict[str, Any]]:
    """Compute means over the layers, by "bases start solver"."""
    result: dict[str, dict[str, Any]] = {}
    for key in dict.fromkeys((row.bases, row.start, row.solver) for row in rows):
        chosen = [row for row in rows if (row.bases, row.start, row.solver) == key]
        whole = sum(row.weights for row in chosen)
        flipped = [sum(row.flipped[basis] * row.weights for row in chosen) / whole for basis in range(key[0])]
        result[" ".join(map(str, key))] = {
            "before": sum(row.before * row.weights for row in chosen) / whole,
            "after": sum(row.after * row.weights for row in chosen) / whole,
            "flipped": flipped,
            "seconds": sum(row.seconds for row in chosen),
        }
    return result


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    result = argparse.ArgumentParser(
        prog="python -m studies.qbb_figures",
        description="QBB's figures about layers, as numbers and pictures.",
        epilog=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("model_dir", type=Path, metavar="MODEL_DIR", help="full-precision model directory")
    result.add_argument("out_dir", type=Path, metavar="OUT_DIR", help="where pictures and figures.json go")
    result.add_argument("--blocks", type=int, nargs="+", metavar="B", help="blocks by number (default: all)")
    result.add_argument("--bases", type=int, default=3, metavar="N", help="of all pictures but bases.svg (default 3)")
    result.add_argument("--group-size", type=int, default=64, metavar="G", help="-1: one group per output (default 64)")
    result.add_argument("--solver", choices=SOLVERS, default=SOLVERS[0], help="of starts.svg (default closed-form)")
    result.add_argument("--steps", type=int, default=100, metavar="N", help="gradient steps per basis (default 100)")
    result.add_argument("--quiet", action="store_true", help="no progress bar")
    add_common_options(result)
    return result


def _command(args: argparse.Namespace) -> None:
    if not 1 <= args.bases <= MAX_BASES:
        raise InputError(f"--bases {args.bases}: expected 1 to {MAX_BASES}")
    plane_format = FormatConfig(method="qbb", planes=args.bases).plane_format
    source = SourceModel(args.model_dir, plane_format)
    numbers = args.blocks if args.blocks is not None else list(range(len(source.blocks)))
    if not set(numbers) <= set(range(len(source.blocks))):
        raise InputError(f"--blocks: expected numbers from 0 to {len(source.blocks) - 1}, got {numbers}")
    rows: list[Row] = []
    todo = cases(args)
    hidden = args.quiet or not sys.stderr.isatty()
    count = sum(len(quant_linears(source.blocks[number][1])) for number in numbers)
    with tqdm(total=count * len(todo), unit="layer", disable=hidden, file=sys.stderr) as bar:
        for number in numbers:
            block = source.blocks[number][1]
            source.load(block)
            for layer in quant_linears(block):
                for bases, start, solver in todo:
                    config = LayerConfig.model_validate({"solver": solver, "steps": args.steps})
                    rows.append(measure(layer, bases, args.group_size, start, config))
                    bar.update()
            source.unload(block)
    means = summary(rows)
    result = {
        "model": args.model_dir.resolve().name,
        "blocks": numbers,
        "group_size": args.group_size,
        "steps": args.steps,
        "means": means,
        "rows": [asdict(row) for row in rows],
    }
    args.out_dir.mkdir(parents=True, exist_ok=True)
    for name, text in draw(rows, args.bases, args.solver).items():
        write_text(args.out_dir / name, text)
    write_text(args.out_dir / RESULT, json.dumps(result, indent=1))
    print(json.dumps(result) if args.json else "\n".join(_lines(means)))


def _lines(means: dict[str, dict[str, Any]]) -> list[str]:
    lines = [f"{'bases start solver':<32}{'start':>9}{'result':>9}{'seconds':>9}  flipped"]
    for name, value in means.items():
        shares = " ".join(f"{share:.3f}" for share in value["flipped"])
        lines.append(f"{name:<32}{value['before']:>9.4f}{value['after']:>9.4f}{value['seconds']:>9.1f}  {shares}")
    return lines


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run(parser(), _command, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
