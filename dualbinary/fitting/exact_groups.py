"""Groups of stored values on a few levels: the step and zero or offset, or the two scales, that give every value back.

A stored value v stands for all numbers that its type rounds to it, an interval. A group lies on a grid where one step,
a number that the scales can hold, brings all levels step * (q - zero) into the intervals of their values. The levels of
two free planes, 0, a, b and a + b, need no search: two values of the group do as a and b, whichever of them it has.
"""

from collections.abc import Callable, Iterator
from itertools import combinations
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from dualbinary.contract.weight import EACH_GROUP, PlaneFormat

__all__ = ["STORED_TYPES", "Found", "StoredType", "on_grid", "on_offset_grid", "on_two_planes"]

_Double: TypeAlias = npt.NDArray[np.float64]
Rounding: TypeAlias = Callable[[_Double], _Double]

TRIAL_ELEMENTS = 1 << 18  # values times trials at a time
REFINED = (32, 256)  # steps from zero that the step of many planes is averaged over, and then again
PLACES = (0.5, 0.0, 1.0)  # of an offset between its bounds; a bound is right where its value rounds to even
NEIGHBORS = (0, 1, -1, 2, -2, 3, -3, 4, -4)  # steps tried beside the one of least squares, in units of their type


class StoredType(NamedTuple):
    """A floating-point type of stored weights or scales: its digits, its smallest exponent and its rounding."""

    digits: int
    exponent: int
    round: Rounding

    def half_steps(self, values: _Double) -> tuple[_Double, _Double]:
        """How far numbers that round to `values` may be toward zero and away from it."""
        fraction, exponent = np.frexp(np.abs(values))
        half = np.ldexp(0.5, np.maximum(exponent - self.digits, self.exponent))
        return np.where(fraction == 0.5, half / 2, half), half


def _bfloat16(values: _Double) -> _Double:
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32).astype(np.float64)


def _numpy_type(dtype: type[np.floating]) -> Rounding:
    def rounded(values: _Double) -> _Double:
        with np.errstate(over="ignore"):
            return values.astype(dtype).astype(np.float64)

    return rounded


STORED_TYPES = {
    "float16": StoredType(11, -24, _numpy_type(np.float16)),
    "bfloat16": StoredType(8, -133, _bfloat16),
    "float32": StoredType(24, -149, _numpy_type(np.float32)),
}


class Found(NamedTuple):
    """The grids of R groups: step [R], zero, offset or second scale [R], and whether they give all values back [R]."""

    step: _Double
    center: _Double
    exact: npt.NDArray[np.bool_]


def on_grid(values: _Double, form: PlaneFormat, stored: StoredType, scale: StoredType, smallest: bool = False) -> Found:
    """Steps and zeros for groups [R, G] on grids without offset.

    The largest value of a group is tried as 1, 2, 3 ... steps, `smallest` first or from the widest grid of the form:
    where both are right it makes no difference, and the widest is more often right.
    """
    most = (1 << form.planes) - 1
    each, half = form.zero == EACH_GROUP, form.zero != EACH_GROUP and float(form.zero) % 1 != 0
    zero = 0.0 if each else float(form.zero)
    widest = most if each or half else int(max(zero, most - zero))
    counts = np.arange(1, widest + 1, 1 + half)
    found = Found(np.zeros(len(values)), np.full(len(values), zero), np.logical_not(values.any(axis=1)))
    for rows, trial in _trials(values, counts if smallest else counts[::-1], found):
        part = values[rows]
        units = np.abs(part).max(axis=1) / trial[:, None]  # [M, R]
        numbers = np.rint(part / units[:, :, None])  # [M, R, G]
        for most_steps in REFINED if form.planes > 4 else ():
            # The largest value alone says too little of a step that many of them make.
            use = (numbers != 0) & (np.abs(numbers) <= most_steps)
            ratios = np.divide(part, numbers, out=np.zeros_like(numbers), where=use)
            count = use.sum(axis=2)
            units = np.where(count, ratios.sum(axis=2) / np.maximum(count, 1), units)
            numbers = np.rint(part / units[:, :, None])
        possible = ((numbers != 0) == (part != 0)).all(axis=2)
        if half:
            possible &= (numbers % 2 != 0).all(axis=2)
        low, high = np.minimum(numbers.min(axis=2), 0), np.maximum(numbers.max(axis=2), 0)
        center, sign = np.full(units.shape, zero), np.ones(units.shape)
        if each:
            center = -low
            possible &= high - low <= most
        elif not half:
            upright = (low >= -zero) & (high <= most - zero)
            sign = np.where(upright, 1.0, -1.0)
            possible &= upright | ((high <= zero) & (low >= zero - most))
        sign *= 1 + half
        _keep(found, rows, scale.round(_middle(part, numbers, stored) * sign), center, possible, (values, most, stored))
        if form.planes > 4:
            # Numbers between two steps may be taken for the wrong one, which leaves no middle.
            near, unit = scale.round(units * sign), np.ldexp(1.0, np.frexp(units * (1 + half))[1] - scale.digits)
            for neighbor in NEIGHBORS[:5]:
                _keep(found, rows, scale.round(near + neighbor * unit), center, possible, (values, most, stored))
    return found


def on_offset_grid(values: _Double, form: PlaneFormat, stored: StoredType, scale: StoredType | None) -> Found:
    """Steps and offsets for groups [R, G] on grids with an additive offset of the type `scale`, as their centers.

    Without a type the groups count as exact where they can be: the numbers that the extremes allow are near enough.
    """
    most = (1 << form.planes) - 1
    low, high = values.min(axis=1), values.max(axis=1)
    toward, away = stored.half_steps(values)
    reach = np.maximum(toward, away)
    ends = reach[np.arange(len(values)), values.argmin(axis=1)], reach[np.arange(len(values)), values.argmax(axis=1)]
    constant = low == high
    offset = scale.round(low) if scale else low
    found = Found(np.zeros(len(values)), offset, constant & (stored.round(offset) == low))
    for rows, trial in _trials(values, np.arange(most, 0, -1), found):
        varied = rows[~constant[rows]]
        if not len(varied):
            continue
        span = high[varied] - low[varied]
        units = span / trial[:, None]  # [M, R]
        places = (values[varied] - low[varied, None]) / units[:, :, None]
        numbers = np.rint(places)
        slack = (ends[0] + ends[1])[varied, None] * (1 + numbers / trial[:, None, None]) + reach[varied]
        possible = (np.abs(places - numbers) * units[:, :, None] <= slack).all(axis=2)
        for m in range(len(trial)):
            chosen = np.flatnonzero(possible[m] & ~found.exact[varied])
            at = varied[chosen]
            if scale is None:
                found.exact[at] = True
                continue
            # The lowest value need not be level 0, and only one offset may be a number of the type.
            for first in range(int(most - trial[m]) + 1):
                open_still = ~found.exact[at]
                if open_still.any():
                    rest, part = at[open_still], numbers[m, chosen[open_still]] + first
                    _enter_pairs(found, rest, values[rest], part, reach[rest], (stored, scale))
    return found


def on_two_planes(values: _Double, stored: StoredType, scale: StoredType) -> Found:
    """Both scales for groups [R, G] on the levels of two free planes without an offset, as their steps and centers.

    A scale with more digits than the stored type is not looked for between its values.
    """
    different = [values.min(axis=1)]
    for _ in range(3):
        above = np.where(values > different[-1][:, None], values, np.inf).min(axis=1)
        different.append(np.where(np.isinf(above), different[-1], above))
    found = Found(np.zeros(len(values)), np.zeros(len(values)), np.zeros(len(values), bool))
    for pair in combinations(different, 2):
        rows = np.flatnonzero(~found.exact)
        a, b = (scale.round(each[rows]) for each in pair)
        with np.errstate(invalid="ignore"):  # of infinite scales
            levels = [np.zeros_like(a), a, b, a + b]
        right = np.any([stored.round(level)[:, None] == values[rows] for level in levels], axis=0).all(axis=1)
        at = rows[right]
        found.step[at], found.center[at], found.exact[at] = a[right], b[right], True
    return found


def _enter_pairs(
    found: Found,
    rows: npt.NDArray[np.intp],
    values: _Double,
    numbers: _Double,
    reach: _Double,
    types: tuple[StoredType, StoredType],
) -> None:
    """Enter for groups `rows` steps and offsets that give values [R, G] back from their numbers, where there are any.

    Least squares comes near to the step, and the offset follows from it.
    """
    stored, scale = types
    # A value near zero is known more exactly; but not from intermediate results.
    weight = 1 / np.square(np.maximum(reach, reach.max(axis=1, keepdims=True) / 256))
    total = weight.sum(axis=1)
    mean = np.einsum("rg,rg->r", weight, values) / total
    apart = numbers - (np.einsum("rg,rg->r", weight, numbers) / total)[:, None]
    slope = np.einsum("rg,rg,rg->r", weight, apart, values - mean[:, None])
    square = np.einsum("rg,rg,rg->r", weight, apart, apart)
    best = slope / square
    # Neighbors in the type of the scales, or in what the values leave open where that is more.
    unit = np.maximum(np.ldexp(1.0, np.frexp(best)[1] - scale.digits), 0.25 / np.sqrt(square))
    nearest = reach.min(axis=1)
    for neighbor in NEIGHBORS:
        step = scale.round(best + neighbor * unit)
        levels = step[:, None] * numbers
        over = values - levels
        low, high = (over - reach).max(axis=1), (over + reach).min(axis=1)
        # Most steps leave no offset: low is above high by more than the rounding of either.
        open_still = low <= high + nearest
        solved = np.zeros(len(rows), bool)
        for place in PLACES:
            some = np.flatnonzero(open_still)
            offset = scale.round(low[some] + (high[some] - low[some]) * place)
            right = (stored.round(levels[some] + offset[:, None]) == values[some]).all(axis=1)
            at = rows[some[right]]
            found.step[at], found.center[at], found.exact[at] = step[some[right]], offset[right], True
            solved[some[right]], open_still[some[right]] = True, False
        if solved.all():
            return
        if solved.any():
            left, rows = ~solved, rows[~solved]
            values, numbers, reach = values[left], numbers[left], reach[left]
            nearest, best, unit = nearest[left], best[left], unit[left]


def _middle(values: _Double, numbers: _Double, stored: StoredType) -> _Double:
    """The middle of the steps [M, R] that numbers [M, R, G] times them allow for values [R, G]; NaN where none is."""
    toward, away = stored.half_steps(values)
    size = np.abs(numbers)
    with np.errstate(divide="ignore", invalid="ignore"):
        least = np.where(size > 0, (np.abs(values) - toward) / size, -np.inf).max(axis=2)
        most = np.where(size > 0, (np.abs(values) + away) / size, np.inf).min(axis=2)
        return np.where(least <= most, (least + most) / 2, np.nan)


def _keep(
    found: Found,
    rows: npt.NDArray[np.intp],
    step: _Double,
    center: _Double,
    possible: npt.NDArray[np.bool_],
    against: tuple[_Double, int, StoredType],
) -> None:
    """Enter for groups `rows` the first of M trials, step and center [M, R], that gives their values back."""
    values, most, stored = against
    possible = possible & np.isfinite(step) & (step != 0) & ~found.exact[rows]
    trial, group = np.nonzero(possible)
    part, units, zero = values[rows[group]], step[trial, group, None], center[trial, group, None]
    q = np.clip(np.rint(part / units + zero), 0, most)
    right = np.flatnonzero((stored.round(units * (q - zero)) == part).all(axis=1))
    # In the order of trials, so that the first place of a group is that of its first trial.
    chosen, first = np.unique(group[right], return_index=True)
    at = rows[chosen]
    found.step[at], found.center[at], found.exact[at] = units[right[first], 0], zero[right[first], 0], True


def _trials(
    values: _Double, counts: npt.NDArray[np.integer], found: Found
) -> Iterator[tuple[npt.NDArray[np.intp], _Double]]:
    """The groups that have no grid so far, and the next counts of steps to try."""
    at = 0
    while at < len(counts):
        rows = np.flatnonzero(~found.exact)
        if not len(rows):
            return
        many = max(1, TRIAL_ELEMENTS // (len(rows) * values.shape[1]))
        yield rows, counts[at : at + many].astype(np.float64)
        at += many
