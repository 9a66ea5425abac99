"""Whole numbers and steps of a weight: what a type of another program must hold.

Even levels are said in two ways, and a type holds the one or the other:

    centered   w[n,k] = step[n,g] · r[n,k]                     r a whole number of either sign
    offset     w[n,k] = step[n,g] · q[n,k] + offset[n,g]       q from 0 on

Both are the weight itself. A zero point that is half a step gives a centered form of half the step and twice the
numbers. Free levels are even where, in each group, all scales are small multiples of the smallest: two bases of QBB
that are alike, or a trained scale that is exactly twice another one.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dualbinary.contract.layout import unpack_planes, unpack_zeros
from dualbinary.contract.scale_codes import scale_values
from dualbinary.contract.schema import padded_k
from dualbinary.contract.weight import EACH_GROUP, PlaneWeight

__all__ = ["ROUNDING", "EvenLevels", "even_levels", "float_type", "half_rounded", "of_blocks"]

Floats = npt.NDArray[np.float64]

ROUNDING = 2.0**-11
"""What a number may change by when it is rounded to float16, once."""

_SMALLEST_NORMAL = float(np.finfo(np.float16).smallest_normal)  # below it, numbers lie as far apart as just above it

_MOST = 255  # steps from the lowest level to the highest; no type has more


@dataclass(frozen=True, eq=False)
class EvenLevels:
    """A weight [N, K] of even levels.

    Attributes:
        q: int16 [N, K], from 0 on.
        step: [N, groups].
        offset: [N, groups].
        zero: parts of a step [N, groups] that stand for 0, -offset / step; None where they are not whole.
        parts: of a step, 1 or 2.
        group_size: G.
        order: column k multiplies input order[k]; None where that is k.
    """

    q: npt.NDArray[np.int16]
    step: Floats
    offset: Floats
    zero: npt.NDArray[np.int16] | None
    parts: int
    group_size: int
    order: npt.NDArray[np.int32] | None = None

    @property
    def centered(self) -> npt.NDArray[np.int16] | None:
        """The numbers r [N, K], in parts of a step; None without a zero."""
        if self.zero is None:
            return None
        return self.q * np.int16(self.parts) - self.zero.repeat(self.group_size, axis=1)[:, : self.q.shape[1]]

    @property
    def part(self) -> Floats:
        """What r counts: the step, or half of it."""
        return self.step / self.parts


def even_levels(weight: PlaneWeight, order: npt.NDArray[np.int32] | None = None) -> EvenLevels | None:
    """The levels of a weight of layout plain; None where they are not even."""
    form = weight.format
    bits = unpack_planes(weight.planes[:, :, : padded_k(weight.K, form.group_size) // 8], weight.K)
    scales = scale_values(weight.with_own_scales().scales)
    zero: npt.NDArray[np.floating] | None = None
    if form.even:
        factors = (1 << np.arange(form.planes)).astype(np.int16)
        q = np.tensordot(factors, bits.astype(np.int16), 1)
        step, offset = scales[0], scales[1] if form.offset else None
        if form.zero == EACH_GROUP:
            zero = unpack_zeros(weight.planes, weight.K, form.group_size).astype(np.float64)
        elif offset is None:
            zero = np.full_like(step, float(form.zero))
    else:
        found = _multiples(scales[: form.planes])
        if found is None:
            return None
        step, factors = found
        lowest = np.minimum(factors, 0).sum(axis=0)
        spread = factors.repeat(form.group_size, axis=2)[:, :, : weight.K]
        q = (spread * bits).sum(axis=0, dtype=np.int16)
        q -= lowest.repeat(form.group_size, axis=1)[:, : weight.K]
        offset = scales[form.planes] + lowest * step if form.offset else None
        zero = -lowest.astype(np.float64) if offset is None else None
    return _in_whole_numbers(q, step, zero, offset, form.group_size, order)


def _in_whole_numbers(
    q: npt.NDArray[np.int16],
    step: Floats,
    zero: npt.NDArray[np.floating] | None,
    offset: Floats | None,
    group_size: int,
    order: npt.NDArray[np.int32] | None,
) -> EvenLevels:
    """The levels with a zero where one is known, or an offset is so many steps or half steps."""
    if zero is None:
        assert offset is not None
        halves = np.rint(np.divide(-2 * offset, step, out=np.zeros_like(step), where=step != 0))
        whole = np.abs(halves).max(initial=0) <= 2 * _MOST and np.array_equal(-halves * step / 2, offset)
        zero = halves / 2 if whole else None
    else:
        offset = -zero * step
    if zero is None:
        return EvenLevels(q, step, offset, None, 1, group_size, order)
    parts = 1 if np.array_equal(zero, np.rint(zero)) else 2
    return EvenLevels(q, step, offset, (zero * parts).astype(np.int16), parts, group_size, order)


def _multiples(scales: Floats) -> tuple[Floats, npt.NDArray[np.int16]] | None:
    """The smallest scale of each group [N, groups] and what multiples of it all are, [P, N, groups]; None if not."""
    sizes = np.abs(scales)
    step = np.where(sizes > 0, sizes, np.inf).min(axis=0)
    step[np.isinf(step)] = 0
    factors = np.rint(np.divide(scales, step, out=np.zeros_like(scales), where=step > 0))
    if np.abs(factors).sum(axis=0).max(initial=0) > _MOST or not np.array_equal(factors * step, scales):
        return None
    return step, factors.astype(np.int16)


def of_blocks(values: np.ndarray, group_size: int, K: int, block: int) -> np.ndarray | None:
    """Values of groups [N, groups] for blocks of `block` inputs: [N, K / block].

    None where a block has inputs of groups whose values differ, or K is no whole number of blocks.
    """
    if K % block:
        return None
    groups = (np.arange(K) // group_size).reshape(-1, block)
    first = values[:, groups[:, 0]]
    for column in range(1, block):
        if not np.array_equal(groups[:, column], groups[:, column - 1]) and not np.array_equal(
            values[:, groups[:, column]], first
        ):
            return None
    return first


def half_rounded(values: Floats) -> tuple[npt.NDArray[np.float16], float]:
    """Values as float16, and the largest change of one: of itself, or of the smallest normal number if that is more.

    Infinity where one is beyond float16, and else at most `ROUNDING`.
    """
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float16)
    if not np.isfinite(narrow).all():
        return narrow, np.inf
    change = np.abs(narrow.astype(np.float64) - values) / np.maximum(np.abs(values), _SMALLEST_NORMAL)
    return narrow, float(change.max(initial=0))


def float_type(parts: Iterable[Floats]) -> tuple[np.dtype[Any], float]:
    """float16, and the largest relative change of a value, if none changes by more than a rounding; else float32, 0."""
    change = max((half_rounded(values)[1] for values in parts), default=0.0)
    return (np.dtype(np.float16), change) if change <= ROUNDING else (np.dtype(np.float32), 0.0)
