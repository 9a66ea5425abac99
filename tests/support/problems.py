"""Random products and the derived bounds of their errors: for the tests of kernels, op, layouts and relayout.

The bound follows the kernels' arithmetic (runtime_ext/src/kernels/kernel.h). In a segment of S inputs the rounding step
is d = (largest sum of |x| of a nibble) / 2 / B with B = 127 (level 4) or 2^15 - 1 (level 0). Each of the S/4 looked-up
entries is off by at most d/2 from its value in float32, and so is the integer start value. That value, at most B, errs
by 2^-24 of it in each of five operations: the inverse of d, a product with it, and three sums. A plane's error is
|scale| times all that. Even levels are free ones with scales 2^p * step (dualbinary/contract/levels.py); a start value
serves all planes of a group there, so that the same bound holds, and what the zero point adds to the sum of the inputs
is part of it or one more product in float32. On top come float32 sums of the outputs: each addition errs by 2^-24 of
the sum of magnitudes. The result is rounded once more to its own type.

A level kernel rounds inputs to d = max |x| / 127 in a segment and the weights of an output and group to bytes of at
most e = sum over planes of |scales| / 255. With c, the center of all weights, an input x of weight w errs by
|w - c| * d/2 and e/2 * |x|, to which float32 adds 2^-24 of 127 and of 255 in three operations, and what its sums lose.
Even levels are not rounded.
"""

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from dualbinary.contract.layout import dequantize, pack_planes, pack_zeros, unpack_zeros
from dualbinary.contract.levels import FREE, GROUP_ZEROS, Levels, free_scales
from dualbinary.contract.reference import dual_binary_matmul
from dualbinary.contract.scale_codes import BFLOAT16, round_scales
from dualbinary.contract.schema import OP, padded_k

EPS = 2.0**-24
"""Rounding error of float32, relative."""
ENTRY_RANGE = {0: 2**15 - 1, 4: 127}
"""B: the largest magnitude of a centered table entry, for each accuracy_level."""
INPUT_RANGE = {0: 127 * 257, 4: 127}  # of level kernels, in steps
LEVEL_RANGE = 255
"""Largest bytes of inputs and of weights in a level kernel."""
ENTRY_OPERATIONS = 5
"""float32 operations that round on the way to an entry."""
MAX_SEGMENT = 128
"""Inputs that share a rounding step, at most. The kernels take the largest multiple of 32 up to this that divides G."""
RESULT_ERROR = {
    np.dtype(np.float32): (EPS, 2.0**-150),
    np.dtype(np.float16): (2.0**-11, 2.0**-25),
    np.dtype(ml_dtypes.bfloat16): (2.0**-8, 2.0**-134),
}
"""Rounding to the result's type: relative, and absolute below the normal numbers."""


@dataclass(frozen=True)
class Problem:
    """X [.., K] and a weight of the contract."""

    x: np.ndarray
    planes: np.ndarray
    scales: np.ndarray
    K: int
    N: int
    group_size: int
    levels: Levels = FREE

    def reference(self) -> np.ndarray:
        """Y [.., N] in float64."""
        sizes = {"K": self.K, "N": self.N, "group_size": self.group_size}
        return dual_binary_matmul(self.x, self.planes, self.scales, **sizes, levels=self.levels)

    @property
    def free_scales(self) -> np.ndarray:
        """The scales [P or P+1, N, groups] of the operator's formula in float64."""
        zeros = unpack_zeros(self.planes, self.K, self.group_size) if self.levels.group_zeros else None
        rows = free_scales(self.scales, self.levels, len(self.planes), zeros)
        return np.broadcast_to(rows, (len(rows), self.N, rows.shape[2]))

    @property
    def magnitudes(self) -> np.ndarray:
        """|scales| of that formula."""
        return np.abs(self.free_scales)

    def float_error(self) -> np.ndarray:
        """Bound of the error of float32 sums, [M, N]."""
        additions = 2 * (self.planes.shape[0] + 1) * self.segments().shape[1] + 32
        return additions * EPS * self.terms()

    def terms(self) -> np.ndarray:
        """Sum of the magnitudes of all products of a scale and an input, [M, N]."""
        return np.einsum("mg,cng->mn", self._per_group(np.abs(self._padded())), self.magnitudes)

    def step_error(self, level: int) -> np.ndarray:
        """One rounding step in every plane and segment, [M, N]."""
        segments = self.segments()
        nibbles = (
            np.abs(segments).reshape(*segments.shape[:2], segments.shape[2] // 4, 4).sum(axis=3).max(axis=2)
        )  # [M, segments]
        steps = nibbles / 2 / ENTRY_RANGE[level]
        return np.einsum("ms,cns->mn", steps, self._per_segment(self.magnitudes[: len(self.planes)]))

    def error_bound(self, level: int) -> np.ndarray:
        """Bound of the error of a table kernel that serves `level`, before its result is rounded, [M, N]."""
        entries = self.segments().shape[2] / 4 + self._halves  # and the start value of each group
        float32_entries = ENTRY_OPERATIONS * EPS * ENTRY_RANGE[level]
        return entries * (0.5 + float32_entries) * self.step_error(level) + self.float_error()

    def level_error_bound(self, level: int) -> np.ndarray:
        """Bound of the error of a level kernel of an accuracy level, before its result is rounded, [M, N]."""
        segments = np.abs(self.segments())  # [M, segments, S]
        steps = segments.max(axis=2) / INPUT_RANGE[level]
        rounded_inputs = (0.5 + 3 * EPS * INPUT_RANGE[level]) * steps
        if self.levels.even:
            return np.einsum("ms,ns->mn", rounded_inputs, self._distances_from_center()) + 2 * self.float_error()
        variable = self.free_scales[: len(self.planes)]  # without the offset
        scales = self._per_segment(np.abs(variable))  # [P, N, segments]
        bits = self.planes[:, :, : padded_k(self.K, self.group_size) // 8]
        dense = dequantize(bits, variable.astype(np.float32), segments.shape[1] * segments.shape[2], self.group_size)
        center = self._per_segment(variable).sum(axis=0) / 2  # [N, segments]
        weights = np.abs(dense.reshape(self.N, *segments.shape[1:]) - center[..., None]).sum(axis=2)  # [N, segments]
        of_inputs = np.einsum("ms,ns->mn", rounded_inputs, weights)
        level_steps = scales.sum(axis=0) / LEVEL_RANGE
        inputs = segments.sum(axis=2) + segments.shape[2] * steps / 2
        of_levels = (0.5 + 3 * EPS * LEVEL_RANGE) * np.einsum("ms,ns->mn", inputs, level_steps)
        return of_inputs + of_levels + 2 * self.float_error()

    def _distances_from_center(self) -> np.ndarray:
        """Sum over a segment of |w - c| of even levels, [N, segments]."""
        bits = np.unpackbits(self.planes[:, :, : padded_k(self.K, self.group_size) // 8], axis=2, bitorder="little")
        q = np.einsum("pnk,p->nk", bits, 1 << np.arange(len(self.planes)))
        distances = np.abs(q - ((1 << len(self.planes)) - 1) / 2) * self.magnitudes[0].repeat(self.group_size, axis=1)
        size = self.segment_size()
        distances = np.pad(distances, ((0, 0), (0, -distances.shape[1] % size)))
        return distances.reshape(self.N, -1, size).sum(axis=2)

    def _padded(self) -> np.ndarray:
        rows = np.asarray(self.x, np.float64).reshape(-1, self.K)
        return np.pad(rows, ((0, 0), (0, padded_k(self.K, self.group_size) - self.K)))

    def _per_group(self, rows: np.ndarray) -> np.ndarray:
        return rows.reshape(len(rows), rows.shape[1] // self.group_size, self.group_size).sum(axis=2)

    def _per_segment(self, scales: np.ndarray) -> np.ndarray:
        """[C, N, segments] of [C, N, groups]; of two groups in a segment the mean."""
        if self._halves == 1:
            return scales.repeat(self.group_size // self.segment_size(), axis=2)
        pairs = np.pad(scales, ((0, 0), (0, 0), (0, scales.shape[2] % 2)))
        return pairs.reshape(*scales.shape[:2], -1, 2).mean(axis=3)

    @property
    def _halves(self) -> int:
        """Groups that are stored as one."""
        return 2 if self.group_size == OP.limits["half_group"] else 1

    def segment_size(self) -> int:
        """Inputs that share a rounding step."""
        unit = self._halves * self.group_size
        return max(s for s in range(32, MAX_SEGMENT + 1, 32) if unit % s == 0)

    def segments(self) -> np.ndarray:
        """X as [M, segments, S] in float64, with zeros past K."""
        size = self.segment_size()
        rows = self._padded()
        rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % size)))
        return rows.reshape(len(rows), rows.shape[1] // size, size)


def make_problem(
    *,
    M: int | tuple[int, ...] = 1,
    K: int = 256,
    N: int = 48,
    group_size: int = 64,
    planes: int = 2,
    offset: bool = False,
    x_type: type = np.float32,
    scale_type: npt.DTypeLike = np.float16,
    levels: Levels = FREE,
    per_tensor: bool = False,
    seed: int = 0,
) -> Problem:
    """A problem with Gaussian activations; M may be the leading dimensions."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, (planes, N, K))
    groups = padded_k(K, group_size) // group_size
    scales = rng.standard_normal((levels.scale_rows(planes) + offset, 1 if per_tensor else N, groups)) * 0.1
    lead = (M,) if isinstance(M, int) else M
    x = rng.standard_normal((*lead, K)).astype(x_type)
    packed = pack_planes(bits, group_size)
    if levels.group_zeros:
        packed = pack_zeros(packed, rng.integers(0, 1 << planes, (N, groups)))
    return Problem(x, packed, _stored(scales, np.dtype(scale_type)), K, N, group_size, levels)


def _stored(scales: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype == np.uint8:
        return round_scales(scales)
    return scales.astype(ml_dtypes.bfloat16).view(BFLOAT16) if dtype == BFLOAT16 else scales.astype(dtype)


ALL_SCALE_TYPES = (np.dtype(np.float16), np.dtype(np.float32), BFLOAT16, np.dtype(np.uint8))


@st.composite
def problems(
    draw,
    rows: tuple[int, ...] = (0, 1, 2, 5, 17),
    scale_types: tuple[np.dtype, ...] = ALL_SCALE_TYPES,
    even: bool | None = None,
    planes: tuple[int, ...] = tuple(range(OP.limits["min_planes"], OP.limits["max_planes"] + 1)),
) -> Problem:
    """Any problem of a modest size: all P, with and without offset, odd K and N, G to a row, all types.

    Of free levels, of even ones, or of both where `even` is None; the latter with any zero points, G of 16 too, and one
    step for all outputs.
    """
    K = draw(st.integers(1, 600), label="K")
    groups_of_32 = padded_k(K, 32) // 32
    count = draw(st.sampled_from(planes), label="P")
    offset = draw(st.booleans(), label="offset")
    is_even = draw(st.booleans(), label="even") if even is None else even
    levels, sizes = FREE, st.integers(1, groups_of_32).map(lambda count: 32 * count)
    if is_even:
        levels = Levels(True, 0 if offset else draw(zero_points(count), label="twice_zero"))
        sizes = st.one_of(st.just(OP.limits["half_group"]), sizes)
    group_size = draw(sizes, label="G")
    shared = levels.even and not levels.group_zeros and padded_k(K, group_size) == group_size
    return make_problem(
        M=draw(st.sampled_from(rows), label="M"),
        K=K,
        N=draw(st.integers(1, 70), label="N"),
        group_size=group_size,
        planes=count,
        offset=offset,
        x_type=draw(st.sampled_from([np.float32, np.float16]), label="X"),
        scale_type=draw(st.sampled_from(scale_types), label="scales"),
        levels=levels,
        per_tensor=shared and draw(st.booleans(), label="one step"),
        seed=draw(st.integers(0, 2**32 - 1), label="seed"),
    )


def zero_points(planes: int) -> st.SearchStrategy[int]:
    """twice_zero for so many planes: one of each group, none, the middle between the levels or next to it, or any."""
    most = 2 * ((1 << planes) - 1)
    return st.one_of(st.sampled_from([GROUP_ZEROS, 0, most // 2, most // 2 + 1, most]), st.integers(0, most))


def assert_close(y: np.ndarray, problem: Problem, error: np.ndarray | float) -> None:
    """Assert that y is the reference to within `error` and the rounding to its type; infinity and NaN must be equal."""
    expected = problem.reference()
    with np.errstate(over="ignore"):
        rounded = expected.astype(y.dtype)
    finite = np.isfinite(rounded)
    # As float64: NumPy does not take two NaN of bfloat16 for the same.
    np.testing.assert_array_equal(y[~finite].astype(np.float64), rounded[~finite].astype(np.float64))
    relative, absolute = RESULT_ERROR[y.dtype]
    error = np.broadcast_to(
        np.asarray(error).reshape(-1, problem.N) if np.ndim(error) else error, (y.size // problem.N, problem.N)
    )
    bound = error.reshape(expected.shape)[finite] + relative * (1 + 1e-3) * np.abs(expected[finite]) + absolute
    difference = np.abs(y.astype(np.float64)[finite] - expected[finite])
    assert (difference <= bound).all(), f"{(difference / bound).max():.3g} times the bound"


def op_model(
    problem: Problem, *, x_dims: list | None = None, constants: tuple[str, ...] = ("planes", "scales"), **attributes
):
    """A model of one node, `proj`, for the problem. `attributes` replace or add to the right ones; None removes one."""
    even = {"levels": 1, "twice_zero": problem.levels.twice_zero} if problem.levels.even else {}
    settings = {"K": problem.K, "N": problem.N, "group_size": problem.group_size, **even, **attributes}
    node = helper.make_node(
        OP.name,
        ["X", "planes", "scales"],
        ["Y"],
        name="proj",
        domain=OP.domain,
        **{name: value for name, value in settings.items() if value is not None},
    )
    x_type = helper.np_dtype_to_tensor_dtype(problem.x.dtype)
    lead = [f"d{i}" for i in range(problem.x.ndim - 1)]
    inputs = [helper.make_tensor_value_info("X", x_type, [*lead, problem.K] if x_dims is None else x_dims)]
    initializers = []
    scales = problem.scales.view(ml_dtypes.bfloat16) if problem.scales.dtype == BFLOAT16 else problem.scales
    for name, array in (("planes", problem.planes), ("scales", scales)):
        if name in constants:
            initializers.append(numpy_helper.from_array(array, name))
        else:
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            inputs.append(helper.make_tensor_value_info(name, kind, list(array.shape)))
    outputs = [helper.make_value_info("Y", helper.make_tensor_type_proto(x_type, None))]
    graph = helper.make_graph([node], "one_node", inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(OP.domain, OP.version)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)
