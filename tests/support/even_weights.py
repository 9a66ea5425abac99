"""Weights of even levels of any form, for property tests of the contract and of what reads it."""

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from dualbinary.contract.scale_codes import BFLOAT16, SCALE_DTYPES, round_scales, scale_values
from dualbinary.contract.weight import EACH_GROUP, PER_CHANNEL, PlaneFormat, PlaneWeight


@dataclass(frozen=True)
class EvenWeight:
    """A weight, and its values [N, K] in float64, computed from step, zero and offset one by one."""

    weight: PlaneWeight
    values: np.ndarray
    rng: np.random.Generator


def stored_scales(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Scales near to `values` [C, N, groups] in a type of the contract."""
    if dtype == np.uint8:
        return round_scales(values)
    if dtype == BFLOAT16:
        return (values.astype(np.float32).view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    return values.astype(dtype)


@st.composite
def even_formats(draw) -> PlaneFormat:
    """Any form of even levels in layout plain."""
    P = draw(st.integers(1, 8))
    kind = draw(st.sampled_from(["constant", "each", "offset"]))
    zero = draw(st.integers(0, 2 * (2**P - 1))) / 2 if kind == "constant" else 0.0
    group_size = draw(st.sampled_from([16, 32, 64, 96, 128, PER_CHANNEL]))
    return PlaneFormat(
        P,
        group_size,
        kind == "offset",
        levels="even",
        zero=EACH_GROUP if kind == "each" else zero,
        scale_dtype=draw(st.sampled_from(sorted(SCALE_DTYPES, key=str))),
        per_tensor=group_size == PER_CHANNEL and kind != "each" and draw(st.booleans()),
    )


@st.composite
def even_weights(draw, max_outputs: int = 40) -> EvenWeight:
    """Any weight of even levels in layout plain."""
    form = draw(even_formats())
    N, K = draw(st.integers(1, max_outputs)), draw(st.integers(1, 200))
    if form.group_size > K + 31:
        form = PlaneFormat(form.planes, 16, form.offset, "even", form.zero, form.scale_dtype)
    form = form.for_inputs(K)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    groups = form.groups(K)
    q = rng.integers(0, 1 << form.planes, (N, K))
    scales = stored_scales(
        rng.standard_normal((form.scale_rows, 1 if form.per_tensor else N, groups)), form.scale_dtype
    )
    zeros = rng.integers(0, 1 << form.planes, (N, groups)) if form.zero == EACH_GROUP else None
    weight = PlaneWeight.pack_even(q, scales, form, zeros)
    steps, *offsets = scale_values(scales)
    zero = np.full((N, groups), form.zero) if zeros is None else zeros
    values = np.empty((N, K))
    for n, k in np.ndindex(N, K):
        row, group = 0 if form.per_tensor else n, k // form.group_size
        values[n, k] = steps[row, group] * (q[n, k] - zero[n, group])
        values[n, k] += offsets[0][row, group] if offsets else 0
    return EvenWeight(weight, values, rng)
