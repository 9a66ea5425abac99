"""The budget of a run: what is counted, and what each unit was given, as overrides.

`--bits B` is B bits for each weight of the linear layers that are quantized: their planes, scales, offsets and zero
points as a checkpoint or an export stores them, padding included, over their weights; what export_report.json calls
bits_per_weight. Vocabulary tables have the bits of --embedding-bits.

`--size N` is N bytes for an exported model, its graph and its data file together: the same of the layers, that of the
vocabulary tables, whose bits are chosen too unless --embedding-bits says them, each tensor from the beginning of a page
on, and --other-bytes for all else. The exporter knows these and gives them; without, they count as none.

A unit is what an exported node multiplies with: layers that read one value. They have one format, so that the graph,
its blocks and their speed are those of a uniform format (docs/decisions/0029).
"""

from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from calib.budget.allocate import Allocation, frontier
from calib.budget.few import Choice, allocate_few
from calib.budget.units import NOTHING, least_bits, measured_choices
from calib.config import CalibConfig
from calib.data.window_counts import BUDGET_WINDOWS
from calib.layer_formats import override_text
from calib.models.source import SourceModel
from calib.stages.context import RunContext
from dualbinary import InputError
from dualbinary.contract.scale_codes import dtype_name
from dualbinary.files.sizes import size_words
from dualbinary.metrics.formats import format_words

__all__ = ["Budget", "check_budget", "chosen_budget", "spend_budget"]

RESULT = "budget"  # in the work directory
SHOWN_POINTS = 200  # of the frontier in the record


@dataclass(frozen=True)
class Budget:
    """What was chosen: the configuration that says it by overrides, and the figures for the record."""

    config: CalibConfig
    figures: dict[str, Any]


def check_budget(source: SourceModel, config: CalibConfig) -> None:
    """Raise InputError where even the smallest formats take more than the budget; nothing has been measured yet."""
    layers, tables = source.linears.values(), config.format.size is not None
    find = partial(least_bits, source, config.format.embedding_bits, tables=tables)
    count = sum(layer.out_features * layer.in_features for layer in layers)
    if find(pages=False) > _budget_bits(config, count):
        raise _too_small(find(pages=tables), count, config)


def _budget_bits(config: CalibConfig, count: int) -> int:
    """What there is for layers, and with --size for tables."""
    asked = config.format
    return 8 * (asked.size - asked.other_bytes) if asked.size is not None else int((asked.bits or 0) * count)


def _too_small(least: int, count: int, config: CalibConfig) -> InputError:
    """The error of a budget below `least` bits, which are enough."""
    asked = config.format
    if asked.size is not None:
        smallest = size_words(-(-least // 8) + asked.other_bytes)
        return InputError(
            f"a budget of {asked.size} bytes: expected {smallest} or more, what the model takes in the smallest "
            "formats of layers and vocabulary tables; ask for more by --size"
        )
    return InputError(
        f"a budget of {asked.bits:g} bits: expected {least / count + 0.0005:.3f} or more, what the smallest formats "
        "take with their scales; ask for more by --bits"
    )


def spend_budget(context: RunContext, tokens: Tensor) -> None:
    """Measure what formats cost over the first of `tokens` int [windows, T], and choose; the result "budget".

    What is measured is kept block by block, and what an earlier process kept is read back. Raises InputError where the
    smallest formats take more than the budget.
    """
    work, config = context.work, context.config
    if work.has(RESULT):
        return
    choices = measured_choices(context, tokens[:BUDGET_WINDOWS])
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
    asked = {
        key: plain["format"].pop(key) for key in ("bits", "size", "other_bytes", "measured") if key in plain["format"]
    }
    plain["format"] |= value["format"]
    return Budget(CalibConfig.from_json(plain, "the budget's choice"), {**asked, **value["figures"]})


def _allocated(choices: list[Choice], count: int, config: CalibConfig) -> Allocation:
    least, budget = (
        sum(min(option.cost for option in choice.options) for choice in choices),
        _budget_bits(config, count),
    )
    if least > budget:
        raise _too_small(least, count, config)
    return allocate_few(choices, budget)


def _formats(choices: list[Choice], found: Allocation) -> tuple[dict[str, Any], list[str]]:
    """The keys of `format` that say the commonest format of layers, and overrides for all others."""
    pairs = list(zip(choices, found.chosen, strict=True))
    forms = {name: choice.forms[option] for choice, option in pairs if not choice.bits for name in choice.modules}
    default, _ = Counter(forms.values()).most_common(1)[0]
    keys = {"planes": default.planes, "group_size": default.group_size, "offset": default.offset}
    keys |= {"levels": default.levels, "scale_type": dtype_name(default.scale_dtype)}
    if default.even and not default.offset:
        keys["zero"] = default.zero
    for choice, option in pairs:
        if choice.bits:
            keys["embedding_bits"] = choice.bits[option]
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
