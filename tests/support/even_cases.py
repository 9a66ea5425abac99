"""Weights of even levels of every form, with activations: for property tests of what stands in for the kernels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from dualbinary.contract.scale_codes import BFLOAT16
from dualbinary.contract.weight import EACH_GROUP, PER_CHANNEL, PlaneFormat, PlaneWeight
from tests.support.even_weights import stored_scales


@dataclass(frozen=True)
class EvenCase:
    """A weight in layout plain, activations [3, K], and an accuracy level."""

    weight: PlaneWeight
    x: np.ndarray
    level: int


@st.composite
def even_cases(draw, planes: Sequence[int] = range(1, 9)) -> EvenCase:
    """Any of `planes`, any kind of zero, group size, type of scales, steps of outputs or one for all."""
    P, K, N = draw(st.sampled_from(list(planes))), draw(st.integers(1, 300)), draw(st.integers(1, 40))
    most = 2**P - 1
    kind = draw(st.sampled_from(["whole", "half", "middle", "group", "offset"]))
    zero = {"half": draw(st.integers(0, most - 1)) + 0.5, "middle": most / 2, "group": EACH_GROUP, "offset": 0.0}
    zero["whole"] = float(draw(st.integers(0, most)))
    sizes = [PER_CHANNEL, 16, *(32 * n for n in (1, 2, 3, 4, 5, 8, 16) if 32 * n <= -(-K // 32) * 32)]
    dtype = np.dtype(draw(st.sampled_from([np.float16, np.float32, np.uint8, BFLOAT16])))
    size = draw(st.sampled_from(sizes))
    per_tensor = size == PER_CHANNEL and kind != "group" and draw(st.booleans())
    form = PlaneFormat(
        P, size, kind == "offset", levels="even", zero=zero[kind], scale_dtype=dtype, per_tensor=per_tensor
    ).for_inputs(K)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    steps = rng.standard_normal((form.scale_rows, 1 if per_tensor else N, form.groups(K)))
    zeros = rng.integers(0, most + 1, (N, form.groups(K))) if kind == "group" else None
    weight = PlaneWeight.pack_even(rng.integers(0, most + 1, (N, K)), stored_scales(steps, dtype), form, zeros)
    return EvenCase(weight, rng.standard_normal((3, K)).astype(np.float32), draw(st.sampled_from([0, 4])))
