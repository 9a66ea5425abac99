"""The smallest form that holds a weight exactly: ternary, four-bit and other grids that a model was stored from.

A weight is exact in a form where the form's values, rounded to the type that the weight is stored in, are the weight.
The search looks at a few rows first, where ordinary weights end it: in a group of 16 they lie on no grid of 255 steps.
What is left of all forms is tried in the order of their bits, on those rows and then on all.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dualbinary.contract.layout import pack_zeros
from dualbinary.contract.scale_codes import BFLOAT16, dtype_name
from dualbinary.contract.schema import padded_k
from dualbinary.contract.weight import EACH_GROUP, PER_CHANNEL, PlaneFormat, PlaneWeight
from dualbinary.fitting.closed_form import fit, group_ranges
from dualbinary.fitting.exact_groups import STORED_TYPES, Found, StoredType, on_grid, on_offset_grid, on_two_planes

__all__ = ["SAMPLE_ROWS", "Exact", "exact_form", "exact_weight", "find_exact"]

Rows = Iterable[npt.NDArray[np.float32]]

SAMPLE_ROWS = 64
"""Rows that decide whether the others are looked at."""

MOST_BITS = 9.0  # of a weight: what an 8-bit grid takes with a 16-bit offset for each 32
GROUP_SIZES = (16, 32, 64, 128, 256, 512)
CHUNK_ELEMENTS = 1 << 18
FEW_ELEMENTS = 256  # that are tried before all of some rows
TRIALS = 4  # forms that held the sample, and not all rows, until the search is given up
SMALL = 16  # inputs of the smallest group, and groups of them that are tried first
OFFSET_PLANES, FREE_PLANES = 5, 3  # at most, of grids with an offset and of free levels
MORE_PLANES = 2  # than the sample needs, because other rows may need them
SCALE_DTYPES = (np.dtype(np.float16), BFLOAT16, np.dtype(np.float32))


class Exact(NamedTuple):
    """A form, in layout plain, that holds a weight exactly, and the weight in it where that was asked for."""

    form: PlaneFormat
    weight: PlaneWeight | None


def find_exact(rows: Callable[[], Rows], stored: str, *, keep: bool) -> Exact | None:
    """The form of the fewest bits that holds a weight [N, K] exactly, with the weight if `keep`; None without one.

    `rows` begins to read the weight, a few rows after another, at least SAMPLE_ROWS of them first or all; `stored` is
    the name of the type that they are stored in: float16, bfloat16 or float32.
    """
    sample = next(iter(rows()))[:SAMPLE_ROWS]
    if not np.isfinite(sample).all():
        return None
    kind = _narrowest(sample, stored)
    for form in islice(_candidates(sample, kind), TRIALS):
        parts = _parts(rows(), form, kind, keep)
        if parts is not None:
            return Exact(form, _joined(parts) if keep else None)
    return None


def exact_form(rows: Callable[[], Rows], stored: str) -> PlaneFormat | None:
    """The form that find_exact finds."""
    found = find_exact(rows, stored, keep=False)
    return found and found.form


def exact_weight(weight: npt.NDArray[np.float32], form: PlaneFormat, stored: str) -> PlaneWeight | None:
    """The weight [N, K] in a form that find_exact found for it; None where it is not exact."""
    parts = _parts([weight], form, _narrowest(weight[:SAMPLE_ROWS], stored), keep=True)
    return None if parts is None else _joined(parts)


def _parts(rows: Rows, form: PlaneFormat, kind: StoredType, keep: bool) -> list[PlaneWeight] | None:
    """All rows in a form, some after another, none of them unless `keep`; None where some are not exact in it."""
    first: npt.NDArray[np.float32] | None = None
    parts: list[PlaneWeight] = []
    for some in rows:
        first = some[:SAMPLE_ROWS] if first is None else first
        for chunk in _chunks(some):
            part = _weight(chunk, form, kind, first) if np.isfinite(chunk).all() else None
            if part is None:
                return None
            if keep:
                parts.append(part)
    return parts


def _joined(parts: list[PlaneWeight]) -> PlaneWeight:
    """Rows of a weight below one another."""
    first = parts[0]
    scales = first.scales if first.format.per_tensor else np.concatenate([part.scales for part in parts], axis=1)
    return PlaneWeight(np.concatenate([part.planes for part in parts], axis=1), scales, first.K, first.format)


def _narrowest(sample: npt.NDArray[np.float32], stored: str) -> StoredType:
    """The type that weights stored as `stored` were rounded to: a narrower one, where that holds all of them."""
    values = sample.astype(np.float64)
    for name in ("bfloat16", "float16"):
        if (STORED_TYPES[name].round(values) == values).all():
            return STORED_TYPES[name]
    return STORED_TYPES[stored]


def _equal(weight: PlaneWeight, values: npt.NDArray[np.float32], stored: StoredType) -> bool:
    return bool((stored.round(weight.dequantize()) == values).all())


def _chunks(weight: npt.NDArray[np.float32]) -> Iterator[npt.NDArray[np.float32]]:
    step = max(1, CHUNK_ELEMENTS // weight.shape[1])
    return (weight[begin : begin + step] for begin in range(0, len(weight), step))


def _weight(
    chunk: npt.NDArray[np.float32], form: PlaneFormat, kind: StoredType, first: npt.NDArray[np.float32]
) -> PlaneWeight | None:
    """Rows of a weight whose first rows are `first` in a form; None where they are not exact in it."""
    form = form.for_inputs(chunk.shape[1])
    if form.even:
        return _even_weight(chunk, form, kind, first)
    two = _two_planes(chunk, form, kind) if form.planes == 2 and not form.offset else None
    if two is not None:
        return two
    fitted = fit(chunk, form).weight
    return fitted if _equal(fitted, chunk, kind) else None


def _even_weight(
    chunk: npt.NDArray[np.float32], form: PlaneFormat, kind: StoredType, first: npt.NDArray[np.float32]
) -> PlaneWeight | None:
    if form.per_tensor:
        found = on_grid(first.astype(np.float64).reshape(1, -1), form, kind, _scale_type(form))
        if not found.exact[0]:
            return None
        shape = len(chunk), form.groups(chunk.shape[1])
        step, center = np.full(shape, found.step[0]), np.full(shape, found.center[0])
    else:
        grids = _grids(chunk, form, kind)
        if grids is None:
            return None
        step, center = grids
    wide, middle = (_each_input(each, form, chunk.shape[1]) for each in (step, center))
    with np.errstate(divide="ignore", invalid="ignore"):
        places = (chunk - middle) / wide if form.offset else chunk / wide + middle
    q = np.clip(np.rint(np.where(wide != 0, places, 0)), 0, (1 << form.planes) - 1)
    levels = wide * q + middle if form.offset else wide * (q - middle)
    if not (kind.round(levels) == chunk).all():
        return None
    scales = np.stack([step, center] if form.offset else [step])
    scales = _stored_scales(scales[:, :1] if form.per_tensor else scales, form)
    packed = PlaneWeight.pack_even(q.astype(np.uint8), scales, replace(form, zero=0.0))
    if form.zero != EACH_GROUP:
        return replace(packed, format=form)
    return replace(packed, planes=pack_zeros(packed.planes, center.astype(np.uint8)), format=form)


def _two_planes(chunk: npt.NDArray[np.float32], form: PlaneFormat, kind: StoredType) -> PlaneWeight | None:
    scales = _grids(chunk, form, kind)
    if scales is None:
        return None
    first, second = (_each_input(each, form, chunk.shape[1]) for each in scales)
    numbers = np.select([chunk == 0, kind.round(first) == chunk, kind.round(second) == chunk], [0, 1, 2], 3)
    planes = np.stack([numbers & 1, numbers >> 1])
    return PlaneWeight.pack(planes.astype(np.uint8), _stored_scales(np.stack(scales), form), form.group_size)


def _grids(
    chunk: npt.NDArray[np.float32], form: PlaneFormat, kind: StoredType
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None:
    """What the groups of some rows are exact with, as Found has it, [n, groups] each; None where a group is not."""
    n, k = chunk.shape
    step, center = np.zeros((n, form.groups(k))), np.zeros((n, form.groups(k)))
    for inputs, groups in group_ranges(k, form.group_size):
        flat = chunk[:, inputs].astype(np.float64).reshape(n * (groups.stop - groups.start), -1)
        found = _search(flat, form, kind)
        if found is None:
            return None
        step[:, groups], center[:, groups] = found.step.reshape(n, -1), found.center.reshape(n, -1)
    return step, center


def _each_input(values: npt.NDArray[np.float64], form: PlaneFormat, k: int) -> npt.NDArray[np.float64]:
    """What is of groups [n, groups], for each input [n, k]."""
    return np.repeat(values, form.group_size, axis=1)[:, :k]


def _scale_type(form: PlaneFormat) -> StoredType:
    return STORED_TYPES[dtype_name(form.scale_dtype)]


def _search(flat: npt.NDArray[np.float64], form: PlaneFormat, kind: StoredType) -> Found | None:
    """What groups [R, G] are exact with; None as soon as a few of them are not."""

    def solve(groups: npt.NDArray[np.float64]) -> Found:
        if not form.even:
            return on_two_planes(groups, kind, _scale_type(form))
        return (on_offset_grid if form.offset else on_grid)(groups, form, kind, _scale_type(form))

    few = solve(flat[: max(1, FEW_ELEMENTS // flat.shape[1])])
    if not few.exact.all():
        return None
    found = solve(flat)
    return found if found.exact.all() else None


def _stored_scales(values: npt.NDArray[np.float64], form: PlaneFormat) -> npt.NDArray[np.generic]:
    """Scales of their type, which holds them exactly."""
    if form.scale_dtype == BFLOAT16:
        return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(form.scale_dtype)


def _candidates(sample: npt.NDArray[np.float32], kind: StoredType) -> Iterator[PlaneFormat]:
    """Forms that hold the sample exactly, in the order of their bits."""
    k = sample.shape[1]
    sizes = [size for size in GROUP_SIZES if size < padded_k(k, 32)]
    forms = [*_even_forms(sample, kind), *_free_forms(sample)]
    every = [
        replace(form, group_size=size, scale_dtype=dtype, per_tensor=per_tensor)
        for form in forms
        for size in (*sizes, PER_CHANNEL)
        if size != SMALL or form.even
        for dtype in SCALE_DTYPES
        for per_tensor in (False, True)
        if not per_tensor or (size == PER_CHANNEL and form.even and not form.offset and form.zero != EACH_GROUP)
    ]
    few = [form for form in every if form.row_bits(k) <= MOST_BITS * k]
    for form in sorted(few, key=lambda form: form.row_bits(k)):
        # A row says no soonest.
        if all(_weight(rows, form, kind, sample) is not None for rows in (sample[:1], sample)):
            yield form


def _even_forms(sample: npt.NDArray[np.float32], kind: StoredType) -> Iterator[PlaneFormat]:
    """Even forms of enough planes for groups of 16, which are part of larger ones, with steps of any value."""
    rows = np.unique(np.linspace(0, len(sample) - 1, 4).astype(int))
    width = min(SMALL, sample.shape[1])
    starts = np.unique(np.linspace(0, sample.shape[1] - width, 4).astype(int)) // width * width
    groups = np.concatenate([sample[rows, start : start + width] for start in starts]).astype(np.float64)
    anything = StoredType(53, -1074, lambda values: values)

    def holds(form: PlaneFormat) -> bool:
        if form.offset:
            return bool(on_offset_grid(groups, form, kind, None).exact.all())
        return bool(on_grid(groups, form, kind, anything, smallest=True).exact.all())

    grids = [[PlaneFormat(p, 32, levels="even", zero=EACH_GROUP) for p in range(1, 9)]]
    if sample.all():
        grids.append([PlaneFormat(p, 32, levels="even", zero=((1 << p) - 1) / 2) for p in range(1, 9)])
    grids.append([PlaneFormat(p, 32, offset=True, levels="even") for p in range(1, OFFSET_PLANES + 1)])
    for forms in grids:
        if holds(forms[-1]):  # ordinary weights end here
            least = next(index for index, form in enumerate(forms) if holds(form))
            for form in forms[least : least + 1 + MORE_PLANES]:
                yield form
                if form.zero == EACH_GROUP:
                    # 0 of 1 plane, 1 of 2, 4 of 3, 8 of 4: one level more on the far side where planes are few.
                    most = (1 << form.planes) - 1
                    yield replace(form, zero=float(most // 2 if form.planes <= 2 else most // 2 + 1))


def _free_forms(sample: npt.NDArray[np.float32]) -> Iterator[PlaneFormat]:
    """Forms of free levels that have as many as 32 neighbors have values."""
    part = np.sort(sample[:, : min(32, sample.shape[1])], axis=1)
    values = int(1 + np.count_nonzero(np.diff(part, axis=1), axis=1).max())
    for planes in range(1, FREE_PLANES + 1):
        if values <= 1 << planes:
            yield from (PlaneFormat(planes, 32, offset) for offset in (False, True))
