"""Cases of SignedHadamard, and the error that its implementations may make."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from dualbinary import HADAMARD, signed_hadamard

DTYPES = (np.float32, np.float16)
FLOAT32_ROUNDING = float(np.finfo(np.float32).eps) / 2
FLOAT16_ROUNDING = float(np.finfo(np.float16).eps) / 2


@dataclass(frozen=True, eq=False)
class Case:
    """An input [.., K] and the transform of it."""

    x: npt.NDArray[np.floating]
    signs: npt.NDArray[np.int8]
    block_size: int
    inverse: int

    @property
    def K(self) -> int:
        """Inputs."""
        return len(self.signs)

    @property
    def expected(self) -> npt.NDArray[np.float64]:
        """What the reference gives."""
        return signed_hadamard(self.x, self.signs, self.block_size, bool(self.inverse))

    @property
    def sums(self) -> npt.NDArray[np.float64]:
        """[.., K]: for each output, the sum of the absolute values of its terms."""
        blocks = np.abs(self.x.astype(np.float64))
        blocks = blocks.reshape(*self.x.shape[:-1], self.K // self.block_size, self.block_size)
        totals = blocks.sum(-1, keepdims=True) * self.block_size**-0.5
        return np.broadcast_to(totals, blocks.shape).reshape(self.x.shape)


def make_case(
    lead: tuple[int, ...] = (2,),
    K: int = 64,
    block_size: int = 16,
    inverse: int = 0,
    dtype: npt.DTypeLike = np.float32,
    seed: int = 0,
) -> Case:
    """A case of normal inputs."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((*lead, K)).astype(dtype)
    return Case(x, rng.choice(np.array([-1, 1], np.int8), K), block_size, inverse)


@st.composite
def cases(draw: st.DrawFn, largest: int = 4096) -> Case:
    """Any shape with rows of at most `largest` inputs."""
    block_size = 1 << draw(st.integers(1, largest.bit_length() - 1))
    blocks = draw(st.integers(1, min(20, largest // block_size)))
    lead = draw(st.sampled_from([(), (1,), (3,), (0,), (2, 3), (9,)]))
    inverse, dtype = draw(st.sampled_from([0, 1])), draw(st.sampled_from(DTYPES))
    return make_case(lead, blocks * block_size, block_size, inverse, dtype, draw(st.integers(0, 99)))


def assert_close(y: np.ndarray, case: Case) -> None:
    """Assert that y is the reference but for the roundings of a kernel, and that shape and type are those of x.

    The factor block_size^(-1/2), the product with it and each of the log2(block_size) stages round once to float32, all
    relative to no more than the sum of the absolute values of an output's terms; float16 rounds the result.
    """
    stages = case.block_size.bit_length() - 1
    error = (stages + 2) * FLOAT32_ROUNDING * 1.001 * case.sums
    if case.x.dtype == np.float16:
        error = (
            error * 1.001 + FLOAT16_ROUNDING * np.abs(case.expected) + float(np.finfo(np.float16).smallest_subnormal)
        )
    assert_within(y, case, error)


def assert_within(y: np.ndarray, case: Case, error: npt.NDArray[np.float64]) -> None:
    """Assert that y is the reference to within `error`, and that shape and type are those of x."""
    assert y.dtype == case.x.dtype
    assert y.shape == case.x.shape
    difference = np.abs(y.astype(np.float64) - case.expected)
    assert (difference <= error).all(), f"{(difference / error).max():.3g} times the bound"


def op_model(case: Case, *, x_dims: list | None = None, constant: bool = True, **attributes) -> onnx.ModelProto:
    """A model of one node, `turn`, for the case. `attributes` replace or add to the right ones; None removes one."""
    settings = {"block_size": case.block_size, "inverse": case.inverse, **attributes}
    settings = {name: value for name, value in settings.items() if value is not None}
    node = helper.make_node(HADAMARD.name, ["X", "S"], ["Y"], name="turn", domain=HADAMARD.domain, **settings)
    kind = helper.np_dtype_to_tensor_dtype(case.x.dtype)
    lead = [f"d{i}" for i in range(case.x.ndim - 1)]
    inputs = [helper.make_tensor_value_info("X", kind, [*lead, case.K] if x_dims is None else x_dims)]
    signs = [numpy_helper.from_array(case.signs, "S")]
    if not constant:
        inputs.append(helper.make_tensor_value_info("S", signs[0].data_type, list(case.signs.shape)))
        signs = []
    outputs = [helper.make_value_info("Y", helper.make_tensor_type_proto(kind, None))]
    graph = helper.make_graph([node], "one_node", inputs, outputs, signs)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(HADAMARD.domain, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)
