"""The fit of single groups of weights with even levels: one step a group, and a zero point or an offset.

A weight w takes the number q = clip(round(w / step + zero), 0, 2^P - 1) and so the level step * (q - zero). For given
numbers the step with the least squared error is <w, d> / <d, d> with d = q - zero, and what it takes off the sum of
squares is the gain <w, d>^2 / <d, d>. With an offset the zero point is a real number of each group, and the best one
is the mean of q where the weights have mean 0.

Each group starts from a few steps that clip more or less, goes on from the best by turns (numbers, step, numbers, ...),
and ends in float64. Steps may be negative: levels -2 to 1 are those of zero 1 with a negative step.
"""

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from dualbinary.contract.weight import EACH_GROUP, PlaneFormat
from dualbinary.fitting.groups import GAUSSIAN_HALF_WIDTH, GroupCodes

__all__ = ["EvenFit"]

_Single: TypeAlias = npt.NDArray[np.float32]
_Double: TypeAlias = npt.NDArray[np.float64]

BLOCK_ELEMENTS = 1 << 15  # weights at a time, so that a block and its scratch stay in the cache of a core
ROUNDS = 4  # from the best start, in float32; then POLISH in float64
POLISH = 2

# The largest weight of a group starts as so many times the largest level: more than 1 clips it. More planes clip less.
CLIPPED = {
    1: (1.0,),
    2: (0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5),
    3: (0.875, 1.0, 1.125, 1.25, 1.375, 1.5, 1.75),
    4: (0.875, 0.9375, 1.0, 1.0625, 1.125, 1.1875, 1.25, 1.375),
    5: (0.97, 1.0, 1.03, 1.06, 1.1, 1.15, 1.2),
}
CLIPPED_MANY = (0.992, 1.0, 1.01, 1.02, 1.04, 1.06)  # 6 planes and more

# With a free zero a grid starts with so many times the width of a group, at its low end, its middle and its high end.
# Small differences move the rounding of every weight: more starts of four planes find 4 % less error, others less.
WIDTHS = {
    1: (0.4, 0.5, 0.6, 0.8, 1.0),
    2: (0.55, 0.65, 0.75, 0.85, 1.0),
    3: (0.75, 0.82, 0.88, 0.94, 1.0, 1.06),
    4: (0.85, 0.9, 0.94, 0.97, 1.0, 1.035, 1.07),
}
WIDTHS_MANY = (0.97, 0.985, 1.0, 1.015)  # 5 planes and more

GAUSSIAN_SHARES = (0.8, 1.0, 1.2)  # of the best step for Gaussian weights: where a group is long, its largest says less
ZERO_TRIALS = 6  # zero points tried for a group whose numbers need clipping


class EvenFit:
    """The fit of single groups with even levels, for one form: R groups at a time."""

    def __init__(self, form: PlaneFormat) -> None:
        self.planes, self.most, self.offset = form.planes, (1 << form.planes) - 1, form.offset
        self.zero = None if form.offset or form.zero == EACH_GROUP else float(form.zero)

    def scales_of(self, weights: _Single) -> _Double:
        """The best steps found for groups [R, G], as [1, R], or steps and offsets as [2, R]."""
        scales = np.empty((1 + self.offset, len(weights)))
        for rows in _blocks(weights):
            scales[:, rows] = self._scales_of_block(weights[rows])
        return scales

    def codes_of(self, weights: _Single, scales: _Double) -> GroupCodes:
        """The nearest numbers q of groups [R, G] under `scales`, and the best zero points where groups have some."""
        codes = np.empty(weights.shape, np.uint8)
        zeros = None if self.offset or self.zero is not None else np.empty(len(weights), np.uint8)
        error = 0.0
        for rows in _blocks(weights):
            columns, step = weights[rows].T.astype(np.float64, order="C"), scales[0, rows]
            if self.offset:
                columns = columns - scales[1, rows]
            places = columns * _inverse(step)
            zero = self.zero or 0.0
            if zeros is not None:
                zero = self._best_zeros(places)
                zeros[rows] = zero
            q = self._numbers(places, zero)
            columns = columns - (q - zero) * step
            error += float(np.einsum("gr,gr->", columns, columns))
            codes[rows] = q.T
        return GroupCodes(codes, error, zeros)

    def _scales_of_block(self, weights: _Single) -> _Double:
        exponent = np.frexp(np.abs(weights).max(axis=1))[1]
        # A power of two brings each group to -1 .. 1 and back without rounding, so that no sum overflows or underflows.
        exact = np.ldexp(weights, -exponent[:, None]).T.astype(np.float64, order="C")
        mean = exact.mean(axis=0) if self.offset else np.zeros(len(weights))
        exact -= mean
        columns = exact.astype(np.float32)
        best = _Best(len(weights))
        for start in self._starts(columns):
            best.offer(*self._improved(columns, *start))
        for _ in range(ROUNDS):
            best.offer(*self._improved(columns, best.step, best.zero))
        if self.zero is None and not self.offset:
            for move in (-1, 1):
                zero = np.clip(best.zero + move, 0, self.most)
                best.offer(*self._improved(columns, best.step, zero))
                best.offer(*self._improved(columns, best.step, best.zero))
        polished = _Best(len(weights))
        polished.step, polished.zero = best.step, best.zero
        for _ in range(POLISH):
            polished.offer(*self._improved(exact, polished.step, polished.zero))
        scales = polished.step[None]
        if self.offset:
            scales = np.stack([polished.step, mean - polished.step * polished.zero])
        return np.ldexp(scales, exponent)

    def _improved(
        self, columns: npt.NDArray[np.floating], step: _Double, zero: _Double
    ) -> tuple[_Double, _Double, _Double]:
        """Gain, step and zero of least squares for the numbers that columns [G, R] take under `step` and `zero`."""
        q = columns * _inverse(step).astype(columns.dtype)
        q = self._numbers(q, zero.astype(columns.dtype))
        if self.offset:
            zero = q.mean(axis=0, dtype=np.float64)
        q -= zero.astype(columns.dtype)
        product = np.einsum("gr,gr->r", columns, q).astype(np.float64)
        square = np.einsum("gr,gr->r", q, q).astype(np.float64)
        step = np.divide(product, square, out=np.zeros_like(product), where=square > 0)
        return step * product, step, zero

    def _numbers(
        self, places: npt.NDArray[np.floating], zero: float | npt.NDArray[np.floating]
    ) -> npt.NDArray[np.floating]:
        """The numbers q at `places`, weights in steps from zero; in place."""
        np.rint(np.add(places, zero, out=places), out=places)
        return np.clip(places, 0, self.most, out=places)

    def _starts(self, columns: _Single) -> Iterator[tuple[_Double, _Double]]:
        """Steps and zeros [R] to start from, for groups [G, R]."""
        low, high = columns.min(axis=0).astype(np.float64), columns.max(axis=0).astype(np.float64)
        deviation = np.sqrt(np.einsum("gr,gr->r", columns, columns, dtype=np.float64) / len(columns))
        gaussian = 2 * GAUSSIAN_HALF_WIDTH[self.planes - 1] / self.most * deviation
        if self.zero is not None:
            zero = np.full(len(low), self.zero)
            extreme = np.where(high > -low, high, low)
            for end in {self.most - self.zero, -self.zero} if 2 * self.zero != self.most else {self.zero}:
                for clipped in CLIPPED.get(self.planes, CLIPPED_MANY) if end else ():
                    yield extreme / (end * clipped), zero
            for share in GAUSSIAN_SHARES:
                yield share * gaussian, zero
                if 2 * self.zero != self.most:
                    yield -share * gaussian, zero
            return
        if not self.offset:
            low, high = np.minimum(low, 0), np.maximum(high, 0)
        width = high - low
        for share in WIDTHS.get(self.planes, WIDTHS_MANY):
            for place in (0.0, 0.5, 1.0) if share != 1 else (0.0,):
                yield self._grid(low + place * (1 - share) * width, share * width / self.most)
        for share in GAUSSIAN_SHARES:
            yield self._grid(-share * gaussian * self.most / 2, share * gaussian)

    def _grid(self, low: _Double, step: _Double) -> tuple[_Double, _Double]:
        """The step and zero of the grid that begins at `low`."""
        zero = -low * _inverse(step)
        return step, zero if self.offset else np.clip(np.rint(zero), 0, self.most)

    def _best_zeros(self, places: _Double) -> _Double:
        """The zero points [R] with the least error for groups [G, R], whose weights are `places` in steps.

        A whole zero point decides which numbers are clipped, and nothing else.
        """
        low, high = -np.rint(places.min(axis=0)), self.most - np.rint(places.max(axis=0))
        best = np.clip(low, 0, self.most)
        crowded = np.flatnonzero(high < low)
        first, last = np.maximum(high[crowded], 0), np.minimum(low[crowded], self.most)
        chosen, least = places[:, crowded], np.full(len(crowded), np.inf)
        for trial in range(ZERO_TRIALS if len(crowded) else 0):
            zero = np.clip(np.rint(first + (last - first) * trial / (ZERO_TRIALS - 1)), 0, self.most)
            left = self._numbers(chosen.copy(), zero) - zero - chosen
            error = np.einsum("gr,gr->r", left, left)
            best[crowded] = np.where(error < least, zero, best[crowded])
            least = np.minimum(least, error)
        return best


class _Best:
    """The best step and zero so far of each of R groups."""

    def __init__(self, groups: int) -> None:
        self.gain, self.step, self.zero = np.full(groups, -1.0), np.zeros(groups), np.zeros(groups)

    def offer(self, gain: _Double, step: _Double, zero: _Double) -> None:
        """Take step and zero for the groups where `gain` is better."""
        better = gain > self.gain
        self.gain = np.where(better, gain, self.gain)
        self.step = np.where(better, step, self.step)
        self.zero = np.where(better, zero, self.zero)


def _blocks(weights: _Single) -> Iterator[slice]:
    size = max(1, BLOCK_ELEMENTS // weights.shape[1])
    return (slice(start, start + size) for start in range(0, len(weights), size))


def _inverse(step: _Double) -> _Double:
    return np.divide(1.0, step, out=np.zeros_like(step), where=step != 0)
