"""A choice that uses few formats.

An exported model has room for sixteen functions of the product, one a format, and for sixteen bodies of each kind of
block, one for each pair of formats that its two products have (docs/decisions/0017, 0026). So the units that stand at
one place of their blocks (queries, keys and values; outputs; gate and up; down) have at most FORMATS formats among
them, so that two products have sixteen pairs, and all units TOTAL.

Formats are taken away one at a time, the one without which the relaxed problem (allocate.py) loses least.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from calib.budget.allocate import Allocation, Option, allocate
from dualbinary.contract.weight import PlaneFormat

__all__ = ["FORMATS", "TOTAL", "Choice", "allocate_few"]

FORMATS, TOTAL = 4, 12


@dataclass(frozen=True)
class Choice:
    """A unit with as many `weights`, at a `place` of its block: layers, or all tables, whose options have `bits`."""

    modules: tuple[str, ...]
    weights: int
    forms: list[PlaneFormat]
    options: list[Option]
    place: int = 0
    bits: tuple[int, ...] = ()


def allocate_few(choices: Sequence[Choice], budget: int) -> Allocation:
    """`allocate` for the options of `choices`, with few formats among those of layers.

    The bound stays that of a choice among all formats. Raises InputError where the cheapest do not fit.
    """
    bound = allocate([choice.options for choice in choices], budget, improve=False).bound
    allowed = [set(range(len(choice.options))) for choice in choices]
    while True:
        found = _allocated(choices, allowed, budget, improve=True)
        taken = list(_too_many(choices, found))
        if not taken:
            return replace(found, bound=bound)
        trials = [_without(choices, allowed, place, form) for place, form in taken]
        fitting = [trial for trial in trials if _fits(choices, trial, budget)]
        if not fitting:
            return replace(found, bound=bound)
        allowed = min(fitting, key=lambda trial: _allocated(choices, trial, budget, improve=False).loss)


def _allocated(choices: Sequence[Choice], allowed: list[set[int]], budget: int, *, improve: bool) -> Allocation:
    places = [sorted(kept) for kept in allowed]
    options = [[choice.options[i] for i in kept] for choice, kept in zip(choices, places, strict=True)]
    found = allocate(options, budget, improve=improve)
    return replace(found, chosen=tuple(kept[i] for kept, i in zip(places, found.chosen, strict=True)))


def _fits(choices: Sequence[Choice], allowed: list[set[int]], budget: int) -> bool:
    least = sum(min(choice.options[i].cost for i in kept) for choice, kept in zip(choices, allowed, strict=True))
    return least <= budget


def _too_many(choices: Sequence[Choice], found: Allocation) -> Iterator[tuple[int | None, PlaneFormat]]:
    """What may be taken away, as place and format, where there are more than may be; no place: from all."""
    used: dict[int, dict[PlaneFormat, None]] = {}
    for choice, option in zip(choices, found.chosen, strict=True):
        if len(choice.options) > 1 and not choice.bits:
            used.setdefault(choice.place, {})[choice.forms[option]] = None
    for place, forms in used.items():
        yield from ((place, form) for form in forms if len(forms) > FORMATS)
    everywhere = dict.fromkeys(form for forms in used.values() for form in forms)
    yield from ((None, form) for form in everywhere if len(everywhere) > TOTAL)


def _without(
    choices: Sequence[Choice], allowed: list[set[int]], place: int | None, form: PlaneFormat
) -> list[set[int]]:
    """`allowed` without a format at a place; a unit that has no other keeps it."""
    kept = []
    for choice, options in zip(choices, allowed, strict=True):
        here = not choice.bits and place in (None, choice.place)
        rest = {i for i in options if choice.forms[i] != form} if here else options
        kept.append(rest or options)
    return kept
