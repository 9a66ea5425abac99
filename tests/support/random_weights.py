"""Formats of every kind, and random weights in them."""

import numpy as np
from hypothesis import strategies as st

from dualbinary import padded_k
from dualbinary.contract.scale_codes import SCALE_DTYPES
from dualbinary.contract.weight import EACH_GROUP, PER_CHANNEL, PlaneFormat, PlaneWeight
from tests.support.even_weights import stored_scales


@st.composite
def plane_formats(draw, K: int) -> PlaneFormat:
    """Any format, in layout plain, that weights of K or more inputs can have."""
    planes, levels = draw(st.integers(1, 8)), draw(st.sampled_from(("free", "symmetric", "even")))
    offset = levels == "symmetric" or draw(st.booleans())
    sizes = [PER_CHANNEL, *range(32, padded_k(K, 32) + 1, 32)]
    if levels != "even":
        dtype = draw(st.sampled_from(list(SCALE_DTYPES)))
        return PlaneFormat(planes, draw(st.sampled_from(sizes)), offset, levels, scale_dtype=dtype)
    size = draw(st.sampled_from([16, *sizes]))
    zero = 0.0
    if not offset:
        halves = st.integers(0, 2 * ((1 << planes) - 1)).map(lambda twice: twice / 2)
        zero = draw(halves | st.just(EACH_GROUP))
    per_tensor = size == PER_CHANNEL and zero != EACH_GROUP and draw(st.booleans())
    dtype = draw(st.sampled_from(list(SCALE_DTYPES)))
    return PlaneFormat(planes, size, offset, levels, zero, dtype, per_tensor=per_tensor)


def random_weight(rng: np.random.Generator, N: int, K: int, form: PlaneFormat) -> PlaneWeight:
    """A weight of any format with random planes, scales and zero points."""
    form = form.for_inputs(K)
    groups = form.groups(K)
    bits = rng.integers(0, 2, (form.planes, N, K))
    values = rng.normal(0, 0.1, (form.scale_rows, 1 if form.per_tensor else N, groups))
    scales = stored_scales(values, form.scale_dtype)
    if not form.even:
        return PlaneWeight.pack(bits, scales, form.group_size)
    q = (bits << np.arange(form.planes)[:, None, None]).sum(axis=0)
    zeros = rng.integers(0, 1 << form.planes, (N, groups)) if form.zero == EACH_GROUP else None
    return PlaneWeight.pack_even(q, scales, form, zeros)
