"""The budget of a run: the units of its model, what they may take, and what each was given, as overrides.

`--bits B` is B bits for each weight of the linear layers that are quantized: their planes, scales, offsets and zero
points as a checkpoint or an export stores them, padding included, over their weights; what export_report.json calls
bits_per_weight. Vocabulary tables have the bits of --embedding-bits.

`--size N` is N bytes for an exported model, its graph and its data file together: the same of the layers, that of the
vocabulary tables, whose bits are chosen too unless --embedding-bits says them, each tensor from the beginning of a page
on, and --other-bytes for all else. The exporter knows these and gives them; without, they count as none.

A unit is what an exported node multiplies with: layers that read one value. They have one format, so that the graph,
its blocks and their speed are those of a uniform format (docs/decisions/0029).
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from calib.budget.allocate import Allocation, Option, frontier
from calib.budget.curvature import measure_curvature
from calib.budget.few import Choice, allocate_few
from calib.budget.forms import candidates, table_candidates
from calib.budget.sensitivity import Unit, measure_units
from calib.budget.tables import measure_tables
from calib.config import CalibConfig
from calib.layer_formats import override_text
from calib.layers import QuantLinear
from calib.models.source import SourceModel
from calib.models.tables import table_places
from calib.report.record import read_record_file
from calib.stages.context import RunContext
from dualbinary import OP, InputError
from dualbinary.contract.scale_codes import dtype_name
from dualbinary.contract.weight import PlaneFormat
from dualbinary.files.sizes import size_words
from dualbinary.metrics.formats import format_words

__all__ = ["WINDOWS", "Budget", "check_budget", "chosen_budget", "spend_budget"]

WINDOWS = 4  # of text that formats are measured on
RESULT = "budget"  # in the work directory
BLOCK = "sensitivity-{:03d}"  # likewise, of a block
TABLES = "sensitivity-tables"
SHOWN_POINTS = 200  # of the frontier in the record
NOTHING = {"none": torch.zeros(1)}  # a result has tensors
PAGE = OP.layouts[0].alignment  # of the data file, where a tensor begins


@dataclass(frozen=True)
class Budget:
    """What was chosen: the configuration that says it by overrides, and the figures for the record."""

    config: CalibConfig
    figures: dict[str, Any]


def check_budget(source: SourceModel, config: CalibConfig) -> None:
    """Raise InputError where even the smallest formats take more than the budget; nothing has been measured yet."""
    layers, asked = source.linears.values(), config.format
    least = sum(min(_cost([layer], form, 1) for form in _forms_of(source, layer)) for layer in layers)
    if asked.size is not None:
        places = table_places(source)
        rows = table_candidates(places[0].shape[1], asked.embedding_bits)
        least += min(sum(V * form.row_bits(H) for V, H in (place.shape for place in places)) for _, form in rows)
    _refuse_less(least, sum(layer.out_features * layer.in_features for layer in layers), config)


def _forms_of(source: SourceModel, layer: QuantLinear) -> list[PlaneFormat]:
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


def _budget_bits(config: CalibConfig, count: int) -> int:
    """What there is for layers, and with --size for tables."""
    asked = config.format
    return 8 * (asked.size - asked.other_bytes) if asked.size is not None else int((asked.bits or 0) * count)


def _refuse_less(least: int, count: int, config: CalibConfig) -> None:
    asked = config.format
    if least <= _budget_bits(config, count):
        return
    if asked.size is not None:
        smallest = size_words(-(-least // 8) + asked.other_bytes)
        raise InputError(
            f"--size {asked.size}: expected {smallest} or more, what the model takes in the smallest formats of layers and "
            "vocabulary tables; ask for more"
        )
    raise InputError(
        f"--bits {asked.bits:g}: expected {least / count + 0.0005:.3f} or more, what the smallest formats take with their "
        "scales; ask for more"
    )


def spend_budget(context: RunContext, tokens: Tensor) -> None:
    """Measure what formats cost over the first of `tokens` int [windows, T], and choose; the result "budget".

    What is measured is kept block by block, and what an earlier process kept is read back. Raises InputError where the
    smallest formats take more than the budget.
    """
    work, config = context.work, context.config
    if work.has(RESULT):
        return
    choices = _choices(context, tokens[:WINDOWS])
    count = sum(choice.weights for choice in choices if not choice.bits)
    found = _allocated(choices, count, config)
    keys, overrides = _formats(choices, found)
    work.write_tensors(
        RESULT, NOTHING, {"format": {**keys, "override": overrides}, "figures": _figures(choices, found, count)}
    )


def chosen_budget(context: RunContext) -> Budget:
    """The result of `spend_budget`."""
    _, value = context.work.read_tensors(RESULT)
    plain = context.config.to_json()
    asked = {key: plain["format"].pop(key) for key in ("bits", "size", "other_bytes", "measured") if key in plain["format"]}
    plain["format"] |= value["format"]
    return Budget(CalibConfig.from_json(plain, "the budget's choice"), {**asked, **value["figures"]})


def _choices(context: RunContext, windows: Tensor) -> list[Choice]:
    """All units, with the cost and the loss of each of their formats."""
    source = context.source
    page = PAGE if context.config.format.size is not None else 1
    choices = []
    for place, unit in _units(context, windows, partial(_forms_of, source)):
        layers = [source.linears[name] for name in unit.layers]
        options = [Option(_cost(layers, form, page), loss) for form, loss in unit.losses.items()]
        weights = sum(layer.out_features * layer.in_features for layer in layers)
        choices.append(Choice(unit.layers, weights, list(unit.losses), options, place))
    if context.config.format.size is not None:
        choices.append(_tables(context, windows))
    source.unload(source.model)
    return choices


def _units(
    context: RunContext, windows: Tensor, forms_of: Callable[[QuantLinear], list[PlaneFormat]]
) -> Iterator[tuple[int, Unit]]:
    """The units of all blocks with their places in these, each block read back where an earlier process measured it."""
    source, work = context.source, context.work
    if context.config.format.measured is not None:
        yield from _measured_before(context, forms_of)
        return
    names = [BLOCK.format(index) for index in range(len(source.blocks))]
    done = next((index for index, name in enumerate(names) if not work.has(name)), len(names))
    if done < len(names):
        _load(context)
        curvature = measure_curvature(context, windows)
        for name, units in zip(names[done:], measure_units(context, windows, curvature, forms_of, done), strict=True):
            rows = [{"layers": unit.layers, "losses": list(unit.losses.values())} for unit in units]
            work.write_tensors(name, NOTHING, {"units": rows})
    for name in names:
        for place, row in enumerate(work.read_tensors(name)[1]["units"]):
            forms = forms_of(source.linears[row["layers"][0]])
            yield place, Unit(tuple(row["layers"]), dict(zip(forms, row["losses"], strict=True)))


def _measured_before(
    context: RunContext, forms_of: Callable[[QuantLinear], list[PlaneFormat]]
) -> Iterator[tuple[int, Unit]]:
    """The units of another run, from its record. Raises InputError where it is of another model or chose otherwise."""
    path, layers = Path(str(context.config.format.measured)), context.source.linears
    rows = [row for row in (read_record_file(path).get("budget") or {"units": []})["units"] if row["modules"][0] in layers]
    named = [name for row in rows for name in row["modules"]]
    for row in rows if sorted(named) == sorted(layers) else ():
        forms = forms_of(layers[row["modules"][0]])
        if [format_words(form) for form in forms] != row["formats"]:
            break
        yield row["place"], Unit(tuple(row["modules"]), dict(zip(forms, row["losses"], strict=True)))
    else:
        if rows and sorted(named) == sorted(layers):
            return
    raise InputError(
        f"--measured {path}: expected what a run with --bits or --size measured of the same layers and formats, found "
        "others; leave it out to measure anew"
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


def _allocated(choices: list[Choice], count: int, config: CalibConfig) -> Allocation:
    _refuse_less(sum(min(option.cost for option in choice.options) for choice in choices), count, config)
    return allocate_few(choices, _budget_bits(config, count))


def _formats(choices: list[Choice], found: Allocation) -> tuple[dict[str, Any], list[str]]:
    """The keys of `format` that say the commonest format of layers, and overrides for all others."""
    pairs = list(zip(choices, found.chosen, strict=True))
    forms = {name: choice.forms[option] for choice, option in pairs if not choice.bits for name in choice.modules}
    default, _ = Counter(forms.values()).most_common(1)[0]
    keys = {"planes": default.planes, "group_size": default.group_size, "offset": default.offset}
    keys |= {"levels": default.levels, "scale_type": dtype_name(default.scale_dtype)}
    if default.even and not default.offset:
        keys["zero"] = default.zero
    keys |= {"embedding_bits": choice.bits[option] for choice, option in pairs if choice.bits}
    texts = [override_text(name, form, default) for name, form in forms.items()]
    return keys, [text for text in texts if text is not None]


def _figures(choices: list[Choice], found: Allocation, count: int) -> dict[str, Any]:
    """For the record: the sums, each unit's formats with their bits and losses, and the frontier in bytes."""
    points = [(cost, loss) for cost, loss in frontier([choice.options for choice in choices])]
    step = -(-len(points) // SHOWN_POINTS)
    pairs = list(zip(choices, found.chosen, strict=True))
    layers = sum(choice.options[option].cost for choice, option in pairs if not choice.bits)
    return {
        "weights": count,
        "bits_per_weight": layers / count,
        "bytes": -(-found.cost // 8),
        "loss": found.loss,
        "gap": found.gap,
        "units": [
            {
                "modules": list(choice.modules),
                "place": choice.place,
                "chosen": option,
                "formats": [format_words(form) for form in choice.forms],
                "bits": [one.cost / choice.weights for one in choice.options],
                "losses": [one.loss for one in choice.options],
            }
            for choice, option in pairs
        ],
        "frontier": [[-(-cost // 8), loss] for cost, loss in [*points[:-1:step], points[-1]]],
    }
