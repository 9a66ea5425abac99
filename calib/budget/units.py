"""The units of a model, and what each of their formats costs in bits and in nats.

A unit is what an exported node multiplies with: layers that read one value, which have one format. With a budget of
bytes all vocabulary tables are one unit more. What is measured is kept block by block in the work directory.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import Module

from calib.budget.allocate import Option
from calib.budget.curvature import measure_curvature
from calib.budget.few import Choice
from calib.budget.forms import candidates, table_candidates
from calib.budget.sensitivity import Unit, measure_units
from calib.budget.tables import measure_tables
from calib.config import CalibConfig
from calib.layers import QuantLinear
from calib.models.source import SourceModel, parameter_count
from calib.models.tables import table_places
from calib.report.record import read_record_file
from calib.stages.context import RunContext
from dualbinary import OP, InputError
from dualbinary.contract.weight import PlaneFormat
from dualbinary.metrics.formats import format_words

__all__ = ["NOTHING", "check_measured", "forms_of", "least_bits", "measured_choices"]

BLOCK = "sensitivity-{:03d}"  # results of the work directory
TABLES = "sensitivity-tables"
NOTHING = {"none": torch.zeros(1)}  # a result has tensors
PAGE = OP.layouts[0].alignment  # of the data file, where a tensor begins


def least_bits(source: SourceModel, embedding_bits: int | None, *, tables: bool, pages: bool) -> int:
    """Bits of the smallest formats of all layers, and with `tables` of those; with `pages` at least what units take.

    Without, it is at most that: which layers are a unit, and share pages, is not known before a block runs.
    """
    page = PAGE if pages else 1
    layers = source.linears.values()
    least = sum(min(_cost([layer], form, page) for form in forms_of(source, layer)) for layer in layers)
    if not tables:
        return least
    shapes = [place.shape for place in table_places(source)]
    rows = table_candidates(shapes[0][1], embedding_bits)
    return least + min(sum(_tensor_bits(form, V, H, page) for V, H in shapes) for _, form in rows)


def forms_of(source: SourceModel, layer: QuantLinear) -> list[PlaneFormat]:
    """The formats that a layer may have: that of the overrides where one names it."""
    named = any(one.matches(layer.name) for one in source.formats.overrides)
    return [layer.format] if named else candidates(layer.in_features)


def _cost(layers: list[QuantLinear], form: PlaneFormat, page: int) -> int:
    """Bits of the planes and scales of layers that one node has, each tensor rounded up to pages of so many bytes."""
    K, N = layers[0].in_features, sum(layer.out_features for layer in layers)
    return _tensor_bits(form, N, K, page)


def _tensor_bits(form: PlaneFormat, N: int, K: int, page: int) -> int:
    planes, scales = form.shapes(N, K)
    sizes = math.prod(planes), math.prod(scales) * form.scale_dtype.itemsize
    return sum(8 * page * -(-size // page) for size in sizes)


def measured_choices(context: RunContext, windows: Tensor) -> list[Choice]:
    """All units, with the cost and the loss of each of their formats."""
    source = context.source
    page = PAGE if context.config.format.size is not None else 1
    choices = []
    for place, unit in _units(context, windows, partial(forms_of, source)):
        layers = [source.linears[name] for name in unit.layers]
        options = [Option(_cost(layers, form, page), loss) for form, loss in unit.losses.items()]
        weights = sum(layer.out_features * layer.in_features for layer in layers)
        choices.append(Choice(unit.layers, weights, list(unit.losses), options, place))
    if context.config.format.size is not None:
        choices.append(_tables(context, windows))
    source.unload(source.model)
    return choices


def _units(
    context: RunContext, windows: Tensor, forms: Callable[[QuantLinear], list[PlaneFormat]]
) -> Iterator[tuple[int, Unit]]:
    """The units of all blocks with their places in these, each block read back where an earlier process measured it."""
    source, work = context.source, context.work
    if context.config.format.measured is not None:
        yield from _measured_before(context.source, context.config, forms)
        return
    names = [BLOCK.format(index) for index in range(len(source.blocks))]
    done = next((index for index, name in enumerate(names) if not work.has(name)), len(names))
    if done < len(names):
        _load(context)
        curvature = measure_curvature(context, windows)
        for name, units in zip(names[done:], measure_units(context, windows, curvature, forms, done), strict=True):
            rows = [{"layers": unit.layers, "losses": list(unit.losses.values())} for unit in units]
            work.write_tensors(name, NOTHING, {"units": rows})
    for name in names:
        for place, row in enumerate(work.read_tensors(name)[1]["units"]):
            names = forms(source.linears[row["layers"][0]])
            yield place, Unit(tuple(row["layers"]), dict(zip(names, row["losses"], strict=True)))


def check_measured(source: SourceModel, config: CalibConfig) -> None:
    """Raise InputError where --measured names no record of the same model, formats and initialization."""
    for _ in _measured_before(source, config, partial(forms_of, source)):
        pass


def _measured_before(
    source: SourceModel, config: CalibConfig, forms: Callable[[QuantLinear], list[PlaneFormat]]
) -> Iterator[tuple[int, Unit]]:
    """The units of another run, from its record. Raises InputError where it is of another model or chose otherwise."""
    _check_same_losses(config)
    path = Path(str(config.format.measured))
    record = read_record_file(path)
    rows = [row for row in (record.get("budget") or {"units": []})["units"] if row["modules"][0] in source.linears]
    found = [(row, forms(source.linears[row["modules"][0]])) for row in rows]
    same = sorted(name for row in rows for name in row["modules"]) == sorted(source.linears)
    same = same and all([format_words(form) for form in given] == row["formats"] for row, given in found)
    if not same or record["model"]["parameters"] != parameter_count(source.model):
        raise InputError(
            f"--measured {path}: expected what a run with --bits or --size measured of the same model and formats, "
            "found others; leave it out to measure anew"
        )
    for row, given in found:
        yield row["place"], Unit(tuple(row["modules"]), dict(zip(given, row["losses"], strict=True)))


def _check_same_losses(config: CalibConfig) -> None:
    """Raise InputError where a format of a layer costs something else in the run that --measured names."""
    path = Path(str(config.format.measured))
    other = CalibConfig.read(path)
    both = [
        {"--rotate": one.format.rotate, "--init-method": one.init.method, "stage init": "init" in one.stages}
        for one in (config, other)
    ]
    for name, mine in both[0].items():
        if (theirs := both[1][name]) != mine:
            raise InputError(
                f"--measured {path}: expected what was measured with {name} {mine}, as this run has it, got {theirs}; "
                "use the same, or leave it out to measure anew"
            )


def _tables(context: RunContext, windows: Tensor) -> Choice:
    """The vocabulary tables, which have as many bits each."""
    places, given = table_places(context.source), context.config.format.embedding_bits
    rows = table_candidates(places[0].shape[1], given)
    if given is not None:
        losses = [0.0]
    else:
        if not context.work.has(TABLES):
            _load(context)
            found = measure_tables(context, windows, [form for _, form in rows])
            context.work.write_tensors(TABLES, NOTHING, {"losses": found})
        losses = context.work.read_tensors(TABLES)[1]["losses"]
    weights = sum(V * H for V, H in (place.shape for place in places))
    costs = [sum(_tensor_bits(form, *place.shape, PAGE) for place in places) for _, form in rows]
    options = [Option(cost, loss) for cost, loss in zip(costs, losses, strict=True)]
    modules = tuple(place.name for place in places)
    return Choice(modules, weights, [form for _, form in rows], options, bits=tuple(bits for bits, _ in rows))


def _load(context: RunContext) -> None:
    """The whole model, in full precision, on its device."""
    context.source.load(context.source.model, linear_dtype=context.dtype)
    Module.to(context.source.model, context.team.device)
