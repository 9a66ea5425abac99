"""Closed-form, data-free fit of planes and scales to a weight.

For each group of G inputs of one output, with bits b[p,k] in {0,1} and scales a[c] (a[P] only with an offset):

    minimise   sum over k of ( w[k] - sum over p of a[p] * b[p,k] - a[P] )^2

by turns, from several starts, keeping the best of each group:

    bits, given scales      every weight takes the nearest of the 2^P levels  sum_p a[p] * b[p] + a[P]
    scales, given bits      the normal equations of a least-squares problem in C unknowns

The weights of a group are sorted once. Nearest level then means 2^P - 1 cuts of a sorted row, and the sums that the normal
equations need are differences of prefix sums: a round costs a few operations per weight and cut, all of them vectorised
over thousands of groups.

A start is a uniform grid lo + s*q, q = 0 .. 2^P-1: plane p has scale s * 2^p, the offset is lo. Without an offset lo must be
-s*z with an integer z, the zero point; plane p then has scale -s * 2^p where bit p of z is set, since

    s * (q - z) = sum over p of (-1)^z[p] * s * 2^p * (q[p] xor z[p]).

So to choose the zero point is to choose the sign of every plane, and both integers next to the ideal one are tried.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from dualbinary.errors import InputError
from dualbinary.schema import OP, padded_k

__all__ = ["Fitted", "fit"]

_Floats: TypeAlias = npt.NDArray[np.float64]

WEIGHTS_PER_BLOCK = (
    1 << 18
)  # a block of sorted weights, its prefix sums and scratch stay within a few MiB, near the L2 cache
SPANS = (0.85, 0.7, 0.55, 0.4)  # widths of the starting grids as shares of a group's range: light tails to heavy ones
ROUNDS = 4  # per start
RIDGE = (
    1e-7  # share of G added to the diagonal, towards the scales of the round before: decides for planes no bit selects
)


@dataclass(frozen=True)
class Fitted:
    """A weight [N, K] as layout 1 planes and scales, and how far it is from what was asked.

    Attributes:
        planes: uint8 [P, N, Kp/8], padding bits 0.
        scales: float16 or float32 [C, N, Kp/G], C = P or P+1.
        K: inputs of the weight.
        group_size: G.
        squared_error: sum of (w - w')^2 with w' made from the rounded scales.
        squared_norm: sum of w^2.
    """

    planes: npt.NDArray[np.uint8]
    scales: npt.NDArray[np.floating]
    K: int
    group_size: int
    squared_error: float
    squared_norm: float

    @property
    def relative_error(self) -> float:
        """squared_error / squared_norm; 0 for a weight of zeros."""
        return self.squared_error / self.squared_norm if self.squared_norm else 0.0


def fit(
    weight: npt.NDArray[np.floating],
    *,
    planes: int = 2,
    group_size: int = 64,
    offset: bool = False,
    scale_dtype: npt.DTypeLike = np.float16,
    threads: int = 1,
    progress: Callable[[int], None] | None = None,
    name: str = "weight",
) -> Fitted:
    """Fit `planes` binary planes and per-group scales to a weight [N, K] of any floating type.

    Memory beyond the result is a few MiB per thread, whatever the size of the weight. The result doesn't depend on
    `threads`. `progress`, if given, is called with the number of rows finished since its last call.

    Raises InputError, naming `name`, where the arguments are outside the contract, the weight isn't finite, or a scale
    doesn't fit `scale_dtype`.
    """
    weight, dtype = np.asarray(weight), np.dtype(scale_dtype)
    _check_arguments(weight, planes, group_size, dtype, name)
    n, k = weight.shape
    kp = padded_k(k, group_size)
    packed = np.zeros((planes, n, kp // 8), np.uint8)
    scales = np.zeros((planes + offset, n, kp // group_size), dtype)
    method = _Method(planes, offset)

    def fit_rows(rows: slice) -> tuple[int, float, float]:
        block = _block_of(weight, rows, name)
        codes = np.zeros((len(block), kp), np.uint8)
        error = norm = 0.0
        for inputs, groups, width in _group_ranges(k, group_size):
            flat = block[:, inputs].reshape(-1, width)  # [rows * groups, width]
            exact, exponent = method.scales_of(flat)
            rounded = _rounded(np.ldexp(exact, exponent), dtype, rows.start, name)
            group_codes, group_error = method.codes_of(flat, rounded)
            codes[:, inputs] = group_codes.reshape(len(block), -1)
            scales[:, rows, groups] = rounded.reshape(len(scales), len(block), -1)
            error += group_error
            norm += float(np.einsum("ij,ij->", flat, flat, dtype=np.float64))
        for plane in range(planes):
            packed[plane, rows] = np.packbits(codes & np.uint8(1 << plane), axis=1, bitorder="little")
        return len(block), error, norm

    step = max(1, WEIGHTS_PER_BLOCK // max(k, 1))
    blocks = [slice(start, min(start + step, n)) for start in range(0, n, step)]
    errors, norms = [], []
    with ThreadPoolExecutor(threads) as pool:
        for done, error, norm in pool.map(fit_rows, blocks):
            errors.append(error)
            norms.append(norm)
            if progress:
                progress(done)
    return Fitted(packed, scales, k, group_size, sum(errors), sum(norms))


class _Method:
    """The fit of groups of one width, for one number of planes, with or without offset. R groups at a time, R last."""

    def __init__(self, planes: int, offset: bool) -> None:
        self.planes, self.offset = planes, offset
        self.count = planes + offset  # C
        codes = np.arange(1 << planes)
        self.bits = (codes[:, None] >> np.arange(self.count)) & 1  # [L, C]
        if offset:
            self.bits[:, planes] = 1
        self.bits = self.bits.astype(np.float64)
        self.pairs = (self.bits[:, :, None] * self.bits[:, None, :]).reshape(len(codes), -1)  # [L, C*C]

    def scales_of(self, weights: npt.NDArray[np.float32]) -> tuple[_Floats, npt.NDArray[np.int32]]:
        """Scales [C, R] for groups [R, G], each to be multiplied by 2^exponent [R].

        Every group is first brought to the range -1 .. 1 by a power of two, which is exact.
        """
        exponent = np.frexp(np.abs(weights).max(axis=1))[1]
        ordered = np.ascontiguousarray(np.sort(np.ldexp(weights, -exponent[:, None]), axis=1).T)  # [G, R]
        problem = _Problem(ordered)
        best, least = np.zeros((self.count, len(weights))), np.full(len(weights), np.inf)
        for start in self._starts(ordered):
            scales = start
            for remaining in range(ROUNDS, -1, -1):
                error, sums, counts = problem.assign(self.bits @ scales)
                better = error < least
                least = np.where(better, error, least)
                best = np.where(better, scales, best)
                if remaining:
                    scales = self._solve(counts, sums, scales, len(ordered))
        return best, exponent

    def codes_of(self, weights: npt.NDArray[np.float32], scales: npt.NDArray[np.floating]) -> tuple[np.ndarray, float]:
        """Codes uint8 [R, G] of the nearest levels, bit p for plane p, and the sum of squared errors that is left."""
        levels = self.bits @ scales.astype(np.float64)  # [L, R]
        order = np.argsort(levels, axis=0)
        levels = np.take_along_axis(levels, order, 0)
        columns = np.ascontiguousarray(weights.T)  # [G, R]
        rank = np.zeros(columns.shape, np.uint8)
        for cut in ((levels[1:] + levels[:-1]) / 2).astype(np.float32):
            rank += columns > cut
        index = rank * np.intp(len(weights)) + np.arange(len(weights))
        residual = columns - np.take(levels, index)
        codes = np.take(order.astype(np.uint8), index)
        return np.ascontiguousarray(codes.T), float(np.einsum("ij,ij->", residual, residual))

    def _solve(self, counts: _Floats, sums: _Floats, previous: _Floats, width: int) -> _Floats:
        """The scales [C, R] of least squares, from the number and the sum of the weights at each level, [L, R]."""
        ridge = RIDGE * width
        gram = (self.pairs.T @ counts).T.reshape(-1, self.count, self.count) + ridge * np.eye(self.count)
        right = self.bits.T @ sums + ridge * previous
        return np.linalg.solve(gram, right.T[:, :, None])[:, :, 0].T

    def _starts(self, ordered: npt.NDArray[np.float32]) -> Iterator[_Floats]:
        """Scales [C, R] to start from, for sorted groups [G, R]."""
        low, high = ordered[0].astype(np.float64), ordered[-1].astype(np.float64)
        steps = (1 << self.planes) - 1
        width = np.where(high > low, high - low, np.maximum(np.abs(high), np.finfo(np.float32).tiny))
        yield from self._grids(low, _lattice_step(ordered, width, steps))
        for span in SPANS:
            yield from self._grids(low + (1 - span) / 2 * width, span * width / steps)

    def _grids(self, low: _Floats, step: _Floats) -> Iterator[_Floats]:
        powers = 2.0 ** np.arange(self.planes)[:, None]
        if self.offset:
            yield np.concatenate([step * powers, low[None]])
            return
        zero_point = np.clip(-low / step, 0, (1 << self.planes) - 1)
        for rounded in (np.floor(zero_point), np.ceil(zero_point)):
            negative = (rounded.astype(np.int64) >> np.arange(self.planes)[:, None]) & 1
            yield np.where(negative, -step, step) * powers


class _Problem:
    """Sorted groups [G, R] with what every round needs of them: prefix sums [G+1, R] and the sum of squares [R]."""

    def __init__(self, ordered: npt.NDArray[np.float32]) -> None:
        self.ordered = ordered
        self.prefix = np.zeros((len(ordered) + 1, ordered.shape[1]))
        for i, row in enumerate(ordered):
            np.add(self.prefix[i], row, out=self.prefix[i + 1])
        self.squares = np.einsum("gr,gr->r", ordered, ordered, dtype=np.float64)
        self.count_dtype = np.min_scalar_type(len(ordered))

    def assign(self, levels: _Floats) -> tuple[_Floats, _Floats, _Floats]:
        """Give every weight the nearest of levels [L, R]; return the error [R] and the sums and counts [L, R] by level."""
        order = np.argsort(levels, axis=0)
        ascending = np.take_along_axis(levels, order, 0)
        cuts = ((ascending[1:] + ascending[:-1]) / 2).astype(np.float32)
        groups = levels.shape[1]
        ends = np.zeros((len(levels) + 1, groups), np.intp)
        ends[-1] = len(self.ordered)
        for end, cut in zip(ends[1:-1], cuts, strict=True):
            end[:] = np.add.reduce((self.ordered < cut).view(np.uint8), axis=0, dtype=self.count_dtype)
        sums, counts = np.empty_like(levels), np.empty_like(levels)
        np.put_along_axis(counts, order, np.diff(ends, axis=0).astype(np.float64), 0)
        np.put_along_axis(sums, order, np.diff(np.take(self.prefix, ends * groups + np.arange(groups)), axis=0), 0)
        error = self.squares + ((counts * levels - 2 * sums) * levels).sum(axis=0)
        return error, sums, counts


def _lattice_step(ordered: npt.NDArray[np.float32], width: _Floats, steps: int) -> _Floats:
    """The step of the grid on which a group [G] lies, if it lies on one of at most `steps` steps; else about width/steps.

    On such a grid no two different weights are nearer than width/steps; nearer ones differ by rounding noise.
    """
    gaps = np.diff(ordered, axis=0)
    least = (width / (steps + 1)).astype(np.float32)
    smallest = np.where(gaps > least, gaps, np.inf).min(axis=0, initial=np.inf)
    return np.where(np.isfinite(smallest), smallest, width / steps)


def _group_ranges(k: int, group_size: int) -> Iterator[tuple[slice, slice, int]]:
    """The full groups of a row, then the ragged one: inputs, groups, and inputs per group."""
    full = k // group_size
    if full:
        yield slice(0, full * group_size), slice(0, full), group_size
    if k % group_size:
        yield slice(full * group_size, k), slice(full, full + 1), k % group_size


def _block_of(weight: np.ndarray, rows: slice, name: str) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore"):
        block = weight[rows].astype(np.float32)
    finite = np.isfinite(block)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        value = weight[rows.start + row, column]
        raise InputError(f"{name}[{rows.start + row}, {column}] is {value}; a weight must be finite in float32")
    return block


def _rounded(scales: _Floats, dtype: np.dtype, first_row: int, name: str) -> npt.NDArray[np.floating]:
    with np.errstate(over="ignore"):
        rounded = scales.astype(dtype)
    finite = np.isfinite(rounded)
    if not finite.all():
        value = scales[~finite][0]
        way_out = "use float32 scales" if dtype == np.float16 else "scale the weight down"
        raise InputError(
            f"{name}: a scale of {value:.6g} is needed near row {first_row}, but {dtype} ends at {np.finfo(dtype).max}; {way_out}"
        )
    return rounded


def _check_arguments(weight: np.ndarray, planes: int, group_size: int, dtype: np.dtype, name: str) -> None:
    limits = OP.limits
    if weight.ndim != 2 or 0 in weight.shape or not np.issubdtype(weight.dtype, np.floating):
        raise InputError(f"{name}: expected a non-empty floating-point [N, K], got {weight.dtype} {list(weight.shape)}")
    if not limits["min_planes"] <= planes <= limits["max_planes"]:
        raise InputError(f"{name}: planes must be {limits['min_planes']} to {limits['max_planes']}, got {planes}")
    multiple = limits["group_multiple"]
    if group_size < multiple or group_size % multiple or group_size > padded_k(weight.shape[1], multiple):
        raise InputError(
            f"{name}: group_size must be a multiple of {multiple} from {multiple} to {padded_k(weight.shape[1], multiple)} "
            f"for {weight.shape[1]} inputs, got {group_size}"
        )
    if dtype not in (np.float16, np.float32):
        raise InputError(f"{name}: scale_dtype must be float16 or float32, got {dtype}")
