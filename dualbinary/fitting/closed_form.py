"""Closed-form, data-free fit of planes and scales to a weight.

For each group of G inputs of one output, with bits b[p,k] in {0,1} and scales a[c] (a[P] only with an offset):

    minimize   sum over k of ( w[k] - sum over p of a[p] * b[p,k] - a[P] )^2

by turns, from a few starts, keeping the best of each group:

    bits, given scales      every weight takes the nearest of the 2^P levels  sum_p a[p] * b[p] + a[P]
    scales, given bits      the normal equations of a least-squares problem in C unknowns

The weights of a group are sorted once. Nearest level then means 2^P - 1 cuts of a sorted row, and the sums that the
normal equations need are differences of prefix sums: a round costs a few operations per weight and cut, all of them
vectorized over thousands of groups.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dualbinary.contract.scale_codes import round_scales, scale_values
from dualbinary.contract.schema import OP, padded_k
from dualbinary.contract.weight import PlaneFormat, PlaneWeight
from dualbinary.errors import InputError
from dualbinary.fitting.groups import GroupFit

__all__ = ["FitResult", "fit"]

CHUNK_ELEMENTS = 1 << 18  # sorted weights or levels at a time: with prefix sums and scratch about 10 MiB a thread


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
    """Fit planes and scales of `plane_format`, whose levels are free, to a weight [N, K] of any floating type.

    Memory beyond the result is about 10 MiB per thread, whatever the size of the weight, as long as a row is short
    against that. The result does not depend on `threads`. `progress`, if given, is called with the number of rows
    finished since its last call. Weights take the nearest levels of the rounded scales.

    Raises InputError, naming `name`, where the weight does not fit the format or is not finite, or a scale does not fit
    its type.
    """
    weight = np.asarray(weight)
    form = _checked_format(weight, plane_format, name)
    n, k = weight.shape
    planes, group_size = form.planes, form.group_size
    kp = padded_k(k, group_size)
    planes_shape, scales_shape = form.shapes(n, k)
    packed, scales = np.empty(planes_shape, np.uint8), np.empty(scales_shape, form.scale_dtype)
    solver = GroupFit(planes, form.offset)

    def fit_rows(rows: slice) -> tuple[int, float, float]:
        chunk = _finite_rows(weight, rows, name)
        codes = np.zeros((len(chunk), kp), np.uint8)
        exact = np.empty((len(scales), len(chunk), kp // group_size))
        parts = [
            (inputs, groups, chunk[:, inputs].reshape(len(chunk) * (groups.stop - groups.start), -1))  # [R, G]
            for inputs, groups in _group_ranges(k, group_size)
        ]
        for _, groups, flat in parts:
            exact[:, :, groups] = solver.scales_of(flat).reshape(len(scales), len(chunk), -1)
        # Whole rows at once: scales of 8 bits share a factor in them.
        scales[:, rows] = _rounded(exact, form.scale_dtype, rows, name)
        values = scale_values(scales[:, rows])
        error = 0.0
        for inputs, groups, flat in parts:
            chunk_codes, chunk_error = solver.codes_of(flat, values[:, :, groups].reshape(len(scales), -1))
            codes[:, inputs] = chunk_codes.reshape(len(chunk), -1)
            error += chunk_error
        for plane in range(planes):
            packed[plane, rows] = np.packbits(codes & np.uint8(1 << plane), axis=1, bitorder="little")
        return len(chunk), error, float(np.einsum("nk,nk->", chunk, chunk, dtype=np.float64))

    step = max(1, CHUNK_ELEMENTS // (kp // group_size * max(group_size, 1 << planes)))
    error = norm = 0.0
    chunks = (slice(start, min(start + step, n)) for start in range(0, n, step))
    with ThreadPoolExecutor(threads) as pool:
        for done, chunk_error, chunk_norm in pool.map(fit_rows, chunks):
            error += chunk_error
            norm += chunk_norm
            if progress:
                progress(done)
    return FitResult(PlaneWeight(packed, scales, k, form), error, norm)


def _group_ranges(k: int, group_size: int) -> Iterator[tuple[slice, slice]]:
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
        rounded = scales.astype(dtype)
    finite = np.isfinite(rounded)
    if not finite.all():
        at = tuple(np.argwhere(~finite)[0])
        larger = "use float32 scales (--scale-bits 32 of an export)"
        way_out = larger if dtype == np.float16 else "scale the model's weights down"
        raise InputError(
            f"{name}: row {rows.start + at[1]} needs a scale of {scales[at]:.6g}, "
            f"expected at most {np.finfo(dtype).max:.6g} for {dtype}; {way_out}"
        )
    return rounded


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
