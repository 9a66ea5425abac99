"""The choice of one option for each unit under a budget: a multiple-choice knapsack.

    minimize   sum over units u of loss[u, o(u)]        under   sum over u of cost[u, o(u)] <= budget

1. The lower convex hull of each unit's options, cost against loss, in order of slope: a step on a hull buys the most
   loss for its cost, so taking steps by slope is the optimum of the relaxed problem, in which the last step may be
   taken in part. That optimum bounds every choice from below.
2. Steps are taken in whole, by slope; one that no longer fits ends its unit's hull, and later ones are still tried.
3. What is left goes to whichever single change of a unit, on its hull or off it, lowers the sum most; until none fits.
   Changes that make a unit dearer may be paid for by one unit that becomes cheaper.

The result is never above the optimum by more than the loss of one step of one hull (`Allocation.gap` says by how much
it may be), which is a small part of the sum where units are many. Kellerer, Pferschy, Pisinger: Knapsack Problems
(2004), chapter 11.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from dualbinary import InputError

__all__ = ["Allocation", "Option", "allocate", "frontier", "hull"]

EXCHANGES = 64  # pairs of changes at most


@dataclass(frozen=True)
class Option:
    """What a unit may be: its cost, a whole number, and its loss."""

    cost: int
    loss: float


@dataclass(frozen=True)
class Allocation:
    """The index of the chosen option of each unit, the sums, and a lower bound of the loss of every choice."""

    chosen: tuple[int, ...]
    cost: int
    loss: float
    bound: float

    @property
    def gap(self) -> float:
        """The loss is above the least possible by this at most."""
        return max(0.0, self.loss - self.bound)


@dataclass(frozen=True)
class _Step:
    """From one option of a unit's hull to the next one: loss that a unit of cost buys."""

    slope: float
    unit: int
    place: int  # of the option that it leads to, on the hull
    cost: int
    gain: float


def hull(options: Sequence[Option]) -> list[int]:
    """Indices of the lower convex hull of `options`, from the cheapest to the one of least loss."""
    order = sorted(range(len(options)), key=lambda i: (options[i].cost, options[i].loss, i))
    found: list[int] = []
    for index in order:
        if found and options[index].loss >= options[found[-1]].loss:
            continue  # dearer, and no better
        while len(found) > 1 and _slope(options, found[-2], found[-1]) <= _slope(options, found[-1], index):
            found.pop()
        found.append(index)
    return found


def _slope(options: Sequence[Option], begin: int, end: int) -> float:
    return (options[begin].loss - options[end].loss) / max(options[end].cost - options[begin].cost, 1e-300)


def _steps(units: Sequence[Sequence[Option]]) -> tuple[list[list[int]], list[_Step]]:
    """The hull of each unit, and all steps by slope, the steepest first."""
    hulls = [hull(options) for options in units]
    steps = [
        _Step(_slope(options, begin, end), unit, place + 1, options[end].cost - options[begin].cost, gain)
        for unit, (options, indices) in enumerate(zip(units, hulls, strict=True))
        for place, (begin, end) in enumerate(pairwise(indices))
        for gain in [options[begin].loss - options[end].loss]
    ]
    return hulls, sorted(steps, key=lambda step: (-step.slope, step.unit, step.place))


def allocate(units: Sequence[Sequence[Option]], budget: int, *, improve: bool = True) -> Allocation:
    """The choice for `units`, each with one option or more; without the third step unless it is to `improve`.

    Raises InputError where the cheapest do not fit.
    """
    hulls, steps = _steps(units)
    least = sum(options[indices[0]].cost for options, indices in zip(units, hulls, strict=True))
    if least > budget:
        raise InputError(f"budget: expected {least} or more, the cost of the cheapest options, got {budget}")
    chosen = [indices[0] for indices in hulls]
    left, bound = budget - least, sum(units[u][o].loss for u, o in enumerate(chosen))
    whole, ended = True, set[int]()
    for step in steps:
        if whole:
            share = min(1.0, left / step.cost) if step.cost else 1.0
            bound -= share * step.gain
            whole = share == 1.0
        if step.unit in ended or step.cost > left:
            ended.add(step.unit)
            continue
        chosen[step.unit] = hulls[step.unit][step.place]
        left -= step.cost
    if improve:
        _improve(units, chosen, left)
    cost, loss = (sum(getattr(units[u][o], key) for u, o in enumerate(chosen)) for key in ("cost", "loss"))
    return Allocation(tuple(chosen), int(cost), float(loss), bound)


def _improve(units: Sequence[Sequence[Option]], chosen: list[int], left: int) -> None:
    """Change single units, or two at once, as long as that lowers the sum within what is left."""
    for _ in range(EXCHANGES):
        changes = [
            (units[u][chosen[u]].loss - option.loss, option.cost - units[u][chosen[u]].cost, u, o)
            for u, options in enumerate(units)
            for o, option in enumerate(options)
            if o != chosen[u]
        ]
        fitting = [change for change in changes if change[0] > 0 and change[1] <= left]
        best: list[tuple[float, int, int, int]] = (
            [max(fitting, key=lambda c: (c[0], -c[1], -c[2], -c[3]))] if fitting else []
        )
        pair = _exchange(changes, left)
        if pair and sum(one[0] for one in pair) > sum(one[0] for one in best):
            best = pair
        if not best:
            return
        for _, cost, unit, option in best:
            chosen[unit] = option
            left -= cost


def _exchange(changes: list[tuple[float, int, int, int]], left: int) -> list[tuple[float, int, int, int]]:
    """The best change that does not fit with one of another unit that pays for it; none where no pair gains."""
    paying = sorted((change for change in changes if change[1] < 0), key=lambda change: -change[0])
    best, gain = [], 0.0
    for wanted in changes:
        if wanted[0] <= gain or wanted[1] <= left:
            continue
        for payer in paying:
            if wanted[0] + payer[0] <= gain:
                break
            if payer[2] != wanted[2] and wanted[1] + payer[1] <= left:
                best, gain = [payer, wanted], wanted[0] + payer[0]
                break
    return best


def frontier(units: Sequence[Sequence[Option]]) -> Iterator[tuple[int, float]]:
    """Cost and loss after every step of all hulls, from all units at their cheapest: what each budget reaches."""
    hulls, steps = _steps(units)
    cost, loss = (
        sum(getattr(options[indices[0]], key) for options, indices in zip(units, hulls, strict=True))
        for key in ("cost", "loss")
    )
    yield int(cost), float(loss)
    for step in steps:
        cost, loss = cost + step.cost, loss - step.gain
        yield int(cost), float(loss)
