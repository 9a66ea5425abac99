"""Random products and the derived bounds of their errors: for the tests of kernels, op, layouts and relayout.

The bound follows the kernels' arithmetic (runtime_ext/src/kernels/kernel.h). In a segment of S inputs the rounding step
is d = (largest sum of |x| of a nibble) / 2 / B with B = 127 (level 4) or 2^15 - 1 (level 0). Each of the S/4 looked-up
entries is off by at most d/2 from its value in float32, and so is the integer start value. That value, at most B, errs
by 2^-24 of it in each of five operations: the inverse of d, a product with it, and three sums. A plane's error is
|scale| times all that. On top come float32 sums of the outputs: each addition errs by 2^-24 of the sum of magnitudes.
The result is rounded once more to its own type.

A level kernel rounds inputs to d = max |x| / 127 in a segment and the weights of an output and group to bytes of at
most e = sum over planes of |scales| / 255. With c, the center of all weights, an input x of weight w errs by
|w - c| * d/2 and e/2 * |x|, to which float32 adds 2^-24 of 127 and of 255 in three operations, and what its sums lose.
"""

from dataclasses import dataclass

import ml_dtypes
import numpy as np
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from dualbinary.contract.layout import dequantize, pack_planes
from dualbinary.contract.reference import dual_binary_matmul
from dualbinary.contract.scale_codes import round_scales, scale_values
from dualbinary.contract.schema import OP, padded_k

EPS = 2.0**-24
"""Rounding error of float32, relative."""
ENTRY_RANGE = {0: 2**15 - 1, 4: 127}
"""B: the largest magnitude of a centered table entry, for each accuracy_level."""
INPUT_RANGE = 127
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

    def reference(self) -> np.ndarray:
        """Y [.., N] in float64."""
        return dual_binary_matmul(self.x, self.planes, self.scales, K=self.K, N=self.N, group_size=self.group_size)

    @property
    def magnitudes(self) -> np.ndarray:
        """|scales| [C, N, groups] in float64, of whatever type they are."""
        return np.abs(scale_values(self.scales))

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
        magnitudes = self.magnitudes[: len(self.planes)]
        groups = magnitudes.shape[2]
        per_group = steps.reshape(len(steps), groups, steps.shape[1] // groups).sum(axis=2)
        return np.einsum("mg,cng->mn", per_group, magnitudes)

    def error_bound(self, level: int) -> np.ndarray:
        """Bound of the error of a table kernel that serves `level`, before its result is rounded, [M, N]."""
        entries = self.segments().shape[2] / 4 + 1  # and the start value
        float32_entries = ENTRY_OPERATIONS * EPS * ENTRY_RANGE[level]
        return entries * (0.5 + float32_entries) * self.step_error(level) + self.float_error()

    def level_error_bound(self) -> np.ndarray:
        """Bound of the error of a level kernel, before its result is rounded, [M, N]."""
        segments = np.abs(self.segments())  # [M, segments, S]
        steps = segments.max(axis=2) / INPUT_RANGE
        per_segment = self.group_size // segments.shape[2]
        scales = self.magnitudes.repeat(per_segment, axis=2)  # [C, N, segments]
        variable = scale_values(self.scales)[: len(self.planes)].astype(np.float32)  # exact; without the offset
        dense = dequantize(self.planes, variable, segments.shape[1] * segments.shape[2], self.group_size)
        center = variable.sum(axis=0, dtype=np.float64).repeat(per_segment, axis=1) / 2  # [N, segments]
        weights = np.abs(dense.reshape(self.N, *segments.shape[1:]) - center[..., None]).sum(axis=2)  # [N, segments]
        of_inputs = (0.5 + 3 * EPS * INPUT_RANGE) * np.einsum("ms,ns->mn", steps, weights)
        level_steps = scales[: len(self.planes)].sum(axis=0) / LEVEL_RANGE
        inputs = segments.sum(axis=2) + segments.shape[2] * steps / 2
        of_levels = (0.5 + 3 * EPS * LEVEL_RANGE) * np.einsum("ms,ns->mn", inputs, level_steps)
        return of_inputs + of_levels + 2 * self.float_error()

    def _padded(self) -> np.ndarray:
        rows = np.asarray(self.x, np.float64).reshape(-1, self.K)
        return np.pad(rows, ((0, 0), (0, padded_k(self.K, self.group_size) - self.K)))

    def _per_group(self, rows: np.ndarray) -> np.ndarray:
        return rows.reshape(len(rows), rows.shape[1] // self.group_size, self.group_size).sum(axis=2)

    def segment_size(self) -> int:
        """Inputs that share a rounding step."""
        return max(s for s in range(32, MAX_SEGMENT + 1, 32) if self.group_size % s == 0)

    def segments(self) -> np.ndarray:
        """X as [M, segments, S] in float64, with zeros past K."""
        size = self.segment_size()
        rows = self._padded()
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
    scale_type: type = np.float16,
    seed: int = 0,
) -> Problem:
    """A problem with Gaussian activations; M may be the leading dimensions."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, (planes, N, K))
    scales = rng.standard_normal((planes + offset, N, padded_k(K, group_size) // group_size)) * 0.1
    lead = (M,) if isinstance(M, int) else M
    x = rng.standard_normal((*lead, K)).astype(x_type)
    stored = round_scales(scales) if scale_type is np.uint8 else scales.astype(scale_type)
    return Problem(x, pack_planes(bits, group_size), stored, K, N, group_size)


@st.composite
def problems(
    draw, rows: tuple[int, ...] = (0, 1, 2, 5, 17), scale_types: tuple[type, ...] = (np.float16, np.float32, np.uint8)
) -> Problem:
    """Any problem of a modest size: all P, with and without offset, odd K and N, G from 32 to a row, all types."""
    K = draw(st.integers(1, 600), label="K")
    groups_of_32 = padded_k(K, 32) // 32
    return make_problem(
        M=draw(st.sampled_from(rows), label="M"),
        K=K,
        N=draw(st.integers(1, 70), label="N"),
        group_size=32 * draw(st.integers(1, groups_of_32), label="G/32"),
        planes=draw(st.integers(OP.limits["min_planes"], OP.limits["max_planes"]), label="P"),
        offset=draw(st.booleans(), label="offset"),
        x_type=draw(st.sampled_from([np.float32, np.float16]), label="X"),
        scale_type=draw(st.sampled_from(scale_types), label="scales"),
        seed=draw(st.integers(0, 2**32 - 1), label="seed"),
    )


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
    settings = {"K": problem.K, "N": problem.N, "group_size": problem.group_size, **attributes}
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
    for name, array in (("planes", problem.planes), ("scales", problem.scales)):
        if name in constants:
            initializers.append(numpy_helper.from_array(array, name))
        else:
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            inputs.append(helper.make_tensor_value_info(name, kind, list(array.shape)))
    outputs = [helper.make_value_info("Y", helper.make_tensor_type_proto(x_type, None))]
    graph = helper.make_graph([node], "one_node", inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(OP.domain, OP.version)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)
