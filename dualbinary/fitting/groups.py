"""The fit of single groups of weights: alternating nearest levels and least squares from a few starting points."""

from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["CROWDED", "GAUSSIAN_HALF_WIDTH", "GroupCodes", "GroupFit"]

_Single: TypeAlias = npt.NDArray[np.float32]
_Double: TypeAlias = npt.NDArray[np.float64]

ROUNDS = 6  # of a start; with 4 the error of Gaussian groups is 1 % larger, see docs/log/fitting.md
RIDGE = (
    1e-7  # share of G added to the diagonal, toward the scales of the round before: decides for planes unused so far
)

# Each scale of a start is this many times the one before. 2 makes a uniform grid, right for weights that lie on one.
# Below the golden ratio the sums overlap and crowd in the middle, where most weights are. See docs/log/fitting.md.
UNIFORM, CROWDED = 2.0, 1.5

# Half the width, in standard deviations, of the uniform 2^P-level grid with the least error on Gaussian weights
# (Max 1960), for P = 1 to 8: where few planes cannot afford to reach the ends of a group's range.
GAUSSIAN_HALF_WIDTH = (0.80, 1.49, 2.05, 2.51, 2.92, 3.28, 3.61, 3.92)

# Share of the sum of squares below which errors are float64 rounding and do not count as better: an exact start, whose
# scales have few digits, must not give way to another exact answer that float16 cannot hold.
NOISE = 1e-13

LATTICE_TOLERANCE = 1 / 16  # of a step: weights that lie on a grid up to their own rounding, to 8 bits or better


class GroupCodes(NamedTuple):
    """Codes uint8 [R, G] of groups, bit p for plane p, the sum of squared errors that is left, and zero points [R]."""

    codes: npt.NDArray[np.uint8]
    error: float
    zeros: npt.NDArray[np.uint8] | None = None


class GroupFit:
    """The fit of single groups, for one number of planes, with or without offset: R groups at a time, R last."""

    def __init__(self, planes: int, offset: bool) -> None:
        self.planes, self.offset = planes, offset
        self.count = planes + offset  # C

    def scales_of(self, weights: _Single) -> _Double:
        """The best scales found for groups [R, G], as [C, R]."""
        exponent = np.frexp(np.abs(weights).max(axis=1))[1]
        # A power of two brings each group to -1 .. 1 and back without rounding, so that no sum overflows or underflows.
        ordered = np.ascontiguousarray(np.sort(np.ldexp(weights, -exponent[:, None]), axis=1).T)  # [G, R]
        problem = _SortedGroups(ordered, self.planes)
        noise = NOISE * problem.squares
        best, least = np.zeros((self.count, len(weights))), np.full(len(weights), np.inf)
        for start in self._starts(ordered):
            scales = start
            for remaining in range(ROUNDS, -1, -1):
                error, gram, right = problem.normal_equations(scales)
                better = error < least - noise
                least = np.where(better, error, least)
                best = np.where(better, scales, best)
                if remaining:
                    scales = _solve(gram, right, scales, RIDGE * len(ordered))
        return np.ldexp(best, exponent)

    def codes_of(self, weights: _Single, scales: _Double) -> GroupCodes:
        """The codes of the levels nearest to groups [R, G] under `scales`."""
        order, levels = _ascending(_levels(scales, self.planes))  # [L, R]
        columns = np.ascontiguousarray(weights.T)  # [G, R]
        rank = np.zeros(columns.shape, np.uint8)
        for cut in _cuts(levels):
            rank += columns > cut
        index = rank * np.intp(len(weights)) + np.arange(len(weights))
        residual = columns - np.take(levels, index)
        codes = np.take(order.astype(np.uint8), index)
        return GroupCodes(np.ascontiguousarray(codes.T), float(np.einsum("gr,gr->", residual, residual)))

    def _starts(self, ordered: _Single) -> Iterator[_Double]:
        """Scales [C, R] to start from, for sorted groups [G, R]."""
        low, high = ordered[0].astype(np.float64), ordered[-1].astype(np.float64)
        few = self._few_values(ordered)
        for uniform in self._grids(low, _lattice_width(ordered, high - low, (1 << self.planes) - 1), UNIFORM):
            uniform[:, few] = self._one_plane_a_value(ordered[:, few])
            yield uniform
        yield from self._grids(low, high - low, CROWDED)
        mean = ordered.mean(axis=0, dtype=np.float64)
        half = GAUSSIAN_HALF_WIDTH[self.planes - 1] * ordered.std(axis=0, dtype=np.float64)
        yield from self._grids(mean - half, 2 * half, CROWDED)

    def _grids(self, low: _Double, width: _Double, ratio: float) -> Iterator[_Double]:
        """Scales [C, R] whose levels reach from low to low + width, each scale `ratio` times the one before.

        To negate the scales of some planes is to move all levels down by their sum. So without an offset the signs do
        its work: the two sets of planes are tried whose sums are nearest to -low.
        """
        if not self.offset:
            low, width = np.minimum(low, 0), np.maximum(low + width, 0) - np.minimum(low, 0)
        share = ratio ** np.arange(self.planes)
        scales = (share / share.sum())[:, None] * width
        if self.offset:
            yield np.concatenate([scales, low[None]])
            return
        distance = np.abs(_levels(scales, self.planes) + low)
        for code in np.argsort(distance, axis=0)[:2]:
            negative = code >> np.arange(self.planes)[:, None] & 1
            yield np.where(negative, -scales, scales)

    def _few_values(self, ordered: _Single) -> npt.NDArray[np.intp]:
        """Groups with so few different values that each can have a plane of its own, but for the offset or zero."""
        values = 1 + np.count_nonzero(np.diff(ordered, axis=0), axis=0)
        if not self.offset:
            values -= (ordered == 0).any(axis=0)
        return np.flatnonzero(values <= self.planes + self.offset)

    def _one_plane_a_value(self, ordered: _Single) -> _Double:
        """Exact scales [C, R] for groups that _few_values chose."""
        base = ordered[0].astype(np.float64) if self.offset else np.zeros(ordered.shape[1])
        scales = np.zeros((self.count, ordered.shape[1]))
        if self.offset:
            scales[-1] = base
        for column, group in enumerate(ordered.T):
            values = np.unique(group) - base[column]
            values = values[values != 0]
            scales[: len(values), column] = values
        return scales


class _SortedGroups:
    """Sorted groups [G, R] with what every round needs of them: prefix sums [G+1, R] and the sum of squares [R]."""

    def __init__(self, ordered: _Single, planes: int) -> None:
        self.ordered, self.planes = ordered, planes
        self.prefix = np.zeros((len(ordered) + 1, ordered.shape[1]))
        for i, row in enumerate(ordered):  # np.cumsum along the first axis is ten times slower
            np.add(self.prefix[i], row, out=self.prefix[i + 1])
        self.squares = np.einsum("gr,gr->r", ordered, ordered, dtype=np.float64)
        self.count_dtype = np.min_scalar_type(len(ordered))

    def normal_equations(self, scales: _Double) -> tuple[_Double, _Double, _Double]:
        """Give every weight the level nearest to it under scales [C, R].

        Returns the squared error [R] and, for these bits, the matrix [C, C, R] and right side [C, R] of least squares.
        """
        order, levels = _ascending(_levels(scales, self.planes))
        groups = levels.shape[1]
        ends = np.zeros((len(levels) + 1, groups), np.intp)
        ends[-1] = len(self.ordered)
        for end, cut in zip(ends[1:-1], _cuts(levels), strict=True):
            end[:] = np.add.reduce((self.ordered < cut).view(np.uint8), axis=0, dtype=self.count_dtype)
        counts, sums = np.empty_like(levels), np.empty_like(levels)
        np.put_along_axis(counts, order, np.diff(ends, axis=0).astype(np.float64), 0)
        np.put_along_axis(sums, order, np.diff(np.take(self.prefix, ends * groups + np.arange(groups)), axis=0), 0)
        # Unknown c is in force in all codes that contain masks[c]: the bit of its plane, or no bit for the offset.
        masks = np.array([1 << c if c < self.planes else 0 for c in range(len(scales))])
        gram = _superset_sums(counts)[masks[:, None] | masks]
        right = _superset_sums(sums)[masks]
        error = self.squares + np.einsum("cr,cr->r", scales, np.einsum("cdr,dr->cr", gram, scales) - 2 * right)
        return error, gram, right


def _levels(scales: _Double, planes: int) -> _Double:
    """The level of each code [L, R] under scales [C, R].

    Not a matrix product, here and in _superset_sums: BLAS would start threads for it that cost more than they bring.
    """
    levels = np.zeros((1 << planes, scales.shape[1]))
    levels[0] = scales[planes] if len(scales) > planes else 0
    for plane in range(planes):
        np.add(levels[: 1 << plane], scales[plane], out=levels[1 << plane : 2 << plane])
    return levels


def _superset_sums(values: _Double) -> _Double:
    """Replace values [L, R] of each code by the sum over all codes that have its bits, and perhaps more."""
    for plane in range(len(values).bit_length() - 1):
        pairs = values.reshape(-1, 2, 1 << plane, values.shape[1])
        pairs[:, 0] += pairs[:, 1]
    return values


def _ascending(levels: _Double) -> tuple[npt.NDArray[np.intp], _Double]:
    """The codes [L, R] in the order of their levels, and the levels in that order."""
    order = np.argsort(levels, axis=0)
    return order, np.take_along_axis(levels, order, 0)


def _cuts(levels: _Double) -> _Single:
    """The cuts between the weights of neighboring levels, [L-1, R], for ascending levels."""
    return ((levels[1:] + levels[:-1]) / 2).astype(np.float32)


def _solve(gram: _Double, right: _Double, previous: _Double, ridge: float) -> _Double:
    """Return x [C, R] with (gram + ridge) x = right + ridge * previous: elimination, all groups at once.

    The matrices [C, C, R] are positive definite, so no pivot is looked for.
    """
    count = len(right)
    rows = np.concatenate([gram, (right + ridge * previous)[:, None]], axis=1)  # [C, C+1, R]
    for i in range(count):
        rows[i, i] += ridge
    for i in range(count):
        rows[i, i:] /= rows[i, i].copy()
        rows[i + 1 :, i:] -= rows[i + 1 :, i, None] * rows[i, i:]
    x = rows[:, count]
    for i in reversed(range(count - 1)):
        x[i] -= np.einsum("cr,cr->r", rows[i, i + 1 : count], x[i + 1 :])
    return x


def _lattice_width(ordered: _Single, width: _Double, steps: int) -> _Double:
    """`width` [R], but for groups that lie on a uniform grid of fewer steps, the width of `steps` of its steps.

    On a grid of at most `steps` steps no two different weights are nearer than width / steps; nearer ones differ by
    rounding noise.
    """
    gaps = np.diff(ordered, axis=0)
    least = (width / (steps + 1)).astype(np.float32)
    step = np.where(gaps > least, gaps, np.inf).min(axis=0, initial=np.inf)
    step = np.where(np.isfinite(step), step, 1)
    position = (ordered - ordered[0]) / step
    off_grid = np.abs(position - np.rint(position)).max(axis=0)
    return np.where(off_grid < LATTICE_TOLERANCE, np.maximum(step * steps, width), width)
