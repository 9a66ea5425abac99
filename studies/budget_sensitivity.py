"""Is the second-order estimate of a bit budget the KL divergence that the whole model shows?

    python -m studies.budget_sensitivity MODEL_DIR --text FILE [--blocks 4] [--windows 4] [--planes 2 3] [--json]

For some blocks each unit alone is quantized, even levels with an offset, G = 64, with errors fed back in the metric of
its full-precision inputs, as the stage init would; all others stay in full precision. A row has the KL of the model on
the same windows beside the estimate of calib/budget/sensitivity.py, as it is and after the trial of the unit; below are
the correlations of the logarithms. Products in bfloat16 add to every KL what they make of no change at all, "nothing".
"""

import argparse
import json
import math
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calib.budget.curvature import measure_curvature
from calib.budget.sensitivity import measure_units
from calib.config import CalibConfig
from calib.data.collect import collect, with_known_start
from calib.layers import QuantLinear
from calib.losses import chunk_size, kl_divergence
from calib.models.blocks import autocast, choose_attention, compute_dtype
from calib.models.head import head_of
from calib.models.source import SourceModel
from calib.presets import preset
from calib.stages.context import RunContext
from calib.stages.input_statistics import input_hessian
from calib.weight_init import WEIGHT_INITS
from dualbinary.cli.console import add_common_options, run
from dualbinary.contract.weight import PlaneFormat

__all__ = ["main"]


def compare(model_dir: Path, text: str, blocks: int, count: int, planes: list[int]) -> list[dict[str, Any]]:
    """A row for each unit of some blocks and each number of planes: name, estimate and KL."""
    value: dict[str, Any] = preset("fast").to_json() | {"stages": ["init"]}
    value["data"] |= {"text": [text], "generate": 0}
    config = CalibConfig.from_json(value, "study")
    source = SourceModel(model_dir, config.format.layer_formats)
    choose_attention(source, "cpu", config.data.length)
    vocabulary = source.vocabulary
    config = with_known_start(config, model_dir, vocabulary)
    windows, _ = collect(config.data, model_dir, count, vocabulary, config.seed, lambda _: torch.empty(0))
    dtype = compute_dtype("auto", "cpu")
    source.load(source.model, linear_dtype=dtype)
    context = RunContext(source, config, None, dtype)  # type: ignore[arg-type]  # nothing is kept
    forms = [PlaneFormat(P, 64, offset=True, levels="even") for P in planes]
    curvature = measure_curvature(context, windows)
    chosen = {round((index + 0.5) * len(source.blocks) / blocks) for index in range(blocks)}
    head, _ = head_of(source.model, "cpu", dtype)
    teachers = [_hidden(context, window) for window in windows]
    rows = []
    for index, units in enumerate(measure_units(context, windows, curvature, lambda _: forms)):
        for unit in units if index in chosen else ():
            layers = [source.linears[name] for name in unit.layers]
            hessian = input_hessian(layers[0], [partial(_hidden, context, window) for window in windows])
            for form, tried in unit.losses.items():
                _quantize(context, layers, hessian, form)
                students = [_hidden(context, window) for window in windows]
                for layer in layers:
                    layer.quantized = False
                kl = _kl(head, teachers, students, vocabulary)
                rows.append(
                    {
                        "unit": unit.layers[0],
                        "planes": form.planes,
                        "estimate": tried / unit.ratio,
                        "tried": tried,
                        "kl": kl,
                    }
                )
                print(json.dumps(rows[-1]), flush=True)
    return rows


@torch.no_grad()
def _hidden(context: RunContext, window: Tensor) -> Tensor:
    with autocast("cpu", context.dtype):
        return context.source.model.base_model(input_ids=window[None].long(), use_cache=False).last_hidden_state[0]


def _quantize(context: RunContext, layers: list[QuantLinear], hessian: Tensor, form: PlaneFormat) -> None:
    initialize = WEIGHT_INITS["error-feedback"].make(context.config.init, 0)
    for layer in layers:
        layer.format = form.for_inputs(layer.in_features)
        state = initialize(layer.full_weight, hessian, layer.format, layer.name)
        layer.set_quantized(state.planes, state.scales)


@torch.no_grad()
def _kl(head: Any, teachers: list[Tensor], students: list[Tensor], vocabulary: int) -> float:
    total = 0.0
    for teacher, student in zip(teachers, students, strict=True):
        for begin in range(0, len(teacher), step := chunk_size(vocabulary)):
            part = slice(begin, begin + step)
            total += float(kl_divergence(head(teacher[part]), head(student[part])).sum())
    return total / sum(map(len, teachers))


def _command(args: argparse.Namespace) -> None:
    rows = compare(args.model_dir, args.text, args.blocks, args.windows, args.planes)
    logs = [{key: math.log(max(row[key], 1e-12)) for key in ("estimate", "tried", "kl")} for row in rows]
    measured = [one["kl"] for one in logs]
    found = {key: statistics.correlation([one[key] for one in logs], measured) for key in ("estimate", "tried")}
    print(json.dumps({"correlation": found}))


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m studies.budget_sensitivity", description="Estimates of a bit budget beside measured KL."
    )
    parser.add_argument("model_dir", type=Path, metavar="MODEL_DIR")
    parser.add_argument("--text", required=True, metavar="FILE", help="text to measure on")
    parser.add_argument("--blocks", type=int, default=4, help="blocks, evenly apart (default 4)")
    parser.add_argument("--windows", type=int, default=4, help="windows of 512 tokens (default 4)")
    parser.add_argument("--planes", type=int, nargs="+", default=[2, 3], help="widths (default 2 3)")
    add_common_options(parser)
    return run(parser, _command, argv)


if __name__ == "__main__":
    raise SystemExit(main())
