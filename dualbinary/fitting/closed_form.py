"""Closed-form, data-free fit of planes and scales to a weight.

For each group of G inputs of one output, with bits b[p,k] in {0,1} and scales a[c] (a[P] only with an offset):

    minimize   sum over k of ( w[k] - sum over p of a[p] * b[p,k] - a[P] )^2

by turns, from a few starts, keeping the best of each group:

    bits, given scales      every weight takes the nearest of the 2^P levels  sum_p a[p] * b[p] + a[P]
    scales, given bits      the normal equations of a least-squares problem in C unknowns

The weights of a group are sorted once. Nearest level then means 2^P - 1 cuts of a sorted row, and the sums that the
normal equations need are differences of prefix sums: a round costs a few operations per weight and cut, all of them
vectorized over thousands of groups. Even levels have a search of their own (even.py).
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dualbinary.contract.scale_codes import BFLOAT16, dtype_name, round_scales, scale_values
from dualbinary.contract.schema import OP, padded_k
from dualbinary.contract.weight import PlaneFormat, PlaneWeight
from dualbinary.errors import InputError
from dualbinary.fitting.even import EvenFit
from dualbinary.fitting.groups import GroupFit

__all__ = ["FitResult", "fit", "group_ranges"]

CHUNK_ELEMENTS = 1 << 18  # sorted weights or levels at a time: with prefix sums and scratch about 10 MiB a thread
SAMPLE_ELEMENTS = 1 << 20  # weights that one step for a whole tensor is fitted to


@dataclass(frozen=True)
class FitResult:
    """A fitted weight and its distance from the original.

    Attributes:
        weight: planes and scales, layout plain.
        squared_error: sum of (w - w')^2 with w' made from the rounded scales.
        squared_norm: sum of w^2.
    """

    weight: PlaneWeight
    squared_error: float
    squared_norm: float

    @property
    def relative_error(self) -> float:
        """squared_error / squared_norm; 0 for a weight of zeros."""
        return self.squared_error / self.squared_norm if self.squared_norm else 0.0


def fit(
    weight: npt.NDArray[np.floating],
    plane_format: PlaneFormat,
    *,
    threads: int = 1,
    progress: Callable[[int], None] | None = None,
    name: str = "weight",
) -> FitResult:
    """Fit planes and scales of `plane_format` to a weight [N, K] of any floating type.

    Memory beyond the result is about 10 MiB per thread, whatever the size of the weight, as long as a row is short
    against that. The result does not depend on `threads`. `progress`, if given, is called with the number of rows
    finished since its last call. Weights take the nearest levels of the rounded scales.

    Raises InputError, naming `name`, where the weight does not fit the format or is not finite, or a scale does not fit
    its type.
    """
    weight = np.asarray(weight)
    form = _checked_format(weight, plane_format, name)
    n, k = weight.shape
    kp = padded_k(k, form.group_size)
    rows = _RowFit(weight, form, name)
    # With free levels every group has 2^P of them to work on.
    least_group = 1 if form.even else 1 << form.planes
    step = max(1, CHUNK_ELEMENTS // (kp // form.group_size * max(form.group_size, least_group)))
    error = norm = 0.0
    chunks = (slice(start, min(start + step, n)) for start in range(0, n, step))
    with _mapping(threads) as each:
        for done, chunk_error, chunk_norm in each(rows.fit, chunks):
            error += chunk_error
            norm += chunk_norm
            if progress:
                progress(done)
    return FitResult(PlaneWeight(rows.packed, rows.scales, k, form), error, norm)


@contextmanager
def _mapping(threads: int) -> Iterator[Callable[..., Iterable[Any]]]:
    """`map` on so many threads; on one, the caller's own: a pool would take longer than the fit of a small weight."""
    if threads == 1:
        yield map
        return
    with ThreadPoolExecutor(threads) as pool:
        yield pool.map


class _RowFit:
    """The fit of some rows of a weight at a time, into `packed` and `scales`, the tensors of layout plain."""

    def __init__(self, weight: npt.NDArray[np.floating], form: PlaneFormat, name: str) -> None:
        self.weight, self.form, self.name = weight, form, name
        self.k = weight.shape[1]
        self.groups = form.groups(self.k)
        planes_shape, scales_shape = form.shapes(*weight.shape)
        self.packed, self.scales = np.empty(planes_shape, np.uint8), np.empty(scales_shape, form.scale_dtype)
        self.solver = EvenFit(form) if form.even else GroupFit(form.planes, form.offset)
        if form.per_tensor:
            self.scales[:] = self._scales_of_sample()

    def fit(self, rows: slice) -> tuple[int, float, float]:
        """Fit `rows`; returns their number, squared error and squared norm."""
        chunk = _finite_rows(self.weight, rows, self.name)
        parts = [
            (inputs, groups, chunk[:, inputs].reshape(len(chunk) * (groups.stop - groups.start), -1))  # [R, G]
            for inputs, groups in group_ranges(self.k, self.form.group_size)
        ]
        values = self._values(rows, [(groups, flat) for _, groups, flat in parts])
        codes = np.zeros((len(chunk), self.groups * self.form.group_size), np.uint8)
        zeros = np.zeros((len(chunk), self.groups), np.uint8)
        error = 0.0
        for inputs, groups, flat in parts:
            found = self.solver.codes_of(flat, values[:, :, groups].reshape(len(values), -1))
            codes[:, inputs] = found.codes.reshape(len(chunk), -1)
            if found.zeros is not None:
                zeros[:, groups] = found.zeros.reshape(len(chunk), -1)
            error += found.error
        row_bytes = codes.shape[1] // 8
        for plane in range(self.form.planes):
            bit = np.uint8(1 << plane)
            self.packed[plane, rows, :row_bytes] = np.packbits(codes & bit, axis=1, bitorder="little")
            if self.form.node_levels.group_zeros:
                self.packed[plane, rows, row_bytes:] = np.packbits(zeros & bit, axis=1, bitorder="little")
        return len(chunk), error, float(np.einsum("nk,nk->", chunk, chunk, dtype=np.float64))

    def _values(self, rows: slice, parts: list[tuple[slice, npt.NDArray[np.float32]]]) -> npt.NDArray[np.float64]:
        """The values of the rounded scales [C, rows, groups] of `rows`, which it stores."""
        count, number = rows.stop - rows.start, len(self.scales)
        if self.form.per_tensor:
            return np.repeat(scale_values(self.scales), count, axis=1)
        exact = np.empty((number, count, self.groups))
        for groups, flat in parts:
            exact[:, :, groups] = self.solver.scales_of(flat).reshape(number, count, -1)
        # Whole rows at once: scales of 8 bits share a factor in them.
        self.scales[:, rows] = _rounded(exact, self.form.scale_dtype, rows, self.name)
        return scale_values(self.scales[:, rows])

    def _scales_of_sample(self) -> npt.NDArray[np.generic]:
        """Rounded scales [C, 1, 1] for the whole weight, fitted to rows spread over it."""
        count = min(len(self.weight), max(1, SAMPLE_ELEMENTS // self.k))
        sample = [int(row) for row in np.linspace(0, len(self.weight) - 1, count)]
        flat = np.concatenate([_finite_rows(self.weight, slice(row, row + 1), self.name) for row in sample], axis=None)
        exact = self.solver.scales_of(flat[None])
        return _rounded(exact[:, :, None], self.form.scale_dtype, slice(0, 1), self.name)


def group_ranges(k: int, group_size: int) -> Iterator[tuple[slice, slice]]:
    """The full groups of a row, then the ragged one: which inputs and which groups."""
    full = k // group_size
    if full:
        yield slice(0, full * group_size), slice(0, full)
    if k % group_size:
        yield slice(full * group_size, k), slice(full, full + 1)


def _finite_rows(weight: npt.NDArray[np.floating], rows: slice, name: str) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore"):
        chunk = weight[rows].astype(np.float32)
    finite = np.isfinite(chunk)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        value = weight[rows.start + row, column]
        raise InputError(
            f"{name}[{rows.start + row}, {column}] is {value}; expected a finite float32; repair the model"
        )
    return chunk


def _rounded(scales: npt.NDArray[np.float64], dtype: np.dtype, rows: slice, name: str) -> npt.NDArray[np.generic]:
    """Scales [C, rows, groups] in `dtype`."""
    if dtype == np.uint8:
        return round_scales(scales, name, rows.start)
    with np.errstate(over="ignore"):
        rounded = _bfloat16(scales) if dtype == BFLOAT16 else scales.astype(dtype)
    finite = np.isfinite(scale_values(rounded))
    if not finite.all():
        at = tuple(np.argwhere(~finite)[0])
        larger = "use float32 scales (--scale-bits 32 of an export)"
        way_out = larger if dtype == np.float16 else "scale the model's weights down"
        most = np.finfo(np.float32 if dtype == BFLOAT16 else dtype).max
        raise InputError(
            f"{name}: row {rows.start + at[1]} needs a scale of {scales[at]:.6g}, "
            f"expected at most {most:.6g} for {dtype_name(dtype)}; {way_out}"
        )
    return rounded


def _bfloat16(values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint16]:
    """The bits of the bfloat16 values nearest to `values`, ties to even."""
    bits = values.astype(np.float32).view(np.uint32)
    return (bits + 0x7FFF + (bits >> 16 & 1) >> 16).astype(np.uint16)


def _checked_format(weight: npt.NDArray[np.floating], plane_format: PlaneFormat, name: str) -> PlaneFormat:
    floating = weight.dtype.kind == "f" or weight.dtype.name == "bfloat16"  # NumPy knows bfloat16 by an extension only
    if weight.ndim != 2 or 0 in weight.shape or not floating:
        raise InputError(f"{name}: expected floating-point [N, K], not empty, got {weight.dtype} {list(weight.shape)}")
    form = plane_format.for_inputs(weight.shape[1])
    largest = padded_k(weight.shape[1], OP.limits["group_multiple"])
    if form.group_size > largest:
        raise InputError(
            f"{name}: group_size: expected at most {largest} for {weight.shape[1]} inputs, got {form.group_size}"
        )
    return form
