"""The functions of standard operators for rows of an int8 cache, against NumPy's."""

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper

from dualbinary.contract.blocks import int8_rows
from dualbinary.contract.schema import OP
from dualbinary.onnx_files.int8_rows import rows_from_int8, rows_to_int8

OPSET = 23


def session(function: onnx.FunctionProto, x: int, y: int, **attributes: Any) -> ort.InferenceSession:
    node = helper.make_node(function.name, ["X"], ["Y"], domain=OP.domain, **attributes)
    info = helper.make_tensor_value_info
    graph = helper.make_graph([node], "rows", [info("X", x, [None] * 4)], [info("Y", y, [None] * 4)])
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(OP.domain, 1)]
    model = helper.make_model(graph, opset_imports=imports, functions=[function], ir_version=10)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def to_int8():
    return session(rows_to_int8(OPSET), TensorProto.FLOAT, TensorProto.INT8)


@pytest.fixture(scope="module")
def from_int8():
    return session(rows_from_int8(OPSET), TensorProto.INT8, TensorProto.FLOAT, to=TensorProto.FLOAT)


def run(runner: ort.InferenceSession, x: np.ndarray) -> np.ndarray:
    return np.asarray(runner.run(None, {"X": x})[0])


def floats_of(rows: np.ndarray) -> np.ndarray:
    return rows[..., :-4] * np.ascontiguousarray(rows[..., -4:]).view("<f4")


@given(
    x=arrays.arrays(
        np.float32,
        st.tuples(st.just(1), st.integers(1, 2), st.integers(0, 3), st.sampled_from([1, 8, 24])),
        elements=st.floats(width=32) | st.sampled_from([0.0, 1e-38, 1.4e-36, 1.5e-36, -1e30, 3e38, np.nan, np.inf]),
    )
)
@settings(max_examples=80, deadline=None)
def test_functions_are_int8_rows_to_the_bit(to_int8, from_int8, x):
    rows = run(to_int8, x)
    np.testing.assert_array_equal(rows, int8_rows(x))
    np.testing.assert_array_equal(run(from_int8, rows), floats_of(rows))


def test_rows_of_small_numbers_are_zeros():
    rows = int8_rows(np.array([[1e-44, -1e-38], [127 * 2.0**-126, 0]], np.float32))
    assert not rows[0].any()
    assert list(floats_of(rows)[1]) == [127 * 2.0**-126, 0]


def test_factors_around_powers_of_two_are_exact(to_int8, from_int8):
    powers = np.exp2(np.arange(-110, 110)).astype(np.float32)
    factors = np.concatenate([np.nextafter(powers, 0), powers, np.nextafter(powers, np.inf)])
    x = np.multiply.outer(127 * factors, [1, -0.5, 0.25, 0]).astype(np.float32)[None, None]

    rows = run(to_int8, x)

    np.testing.assert_array_equal(rows, int8_rows(x))
    np.testing.assert_array_equal(run(from_int8, rows), floats_of(rows))


def test_a_row_that_is_read_and_written_stays_as_it_is(to_int8, from_int8):
    rows = int8_rows(np.random.default_rng(0).normal(0, 3, (1, 1, 10_000, 8)))
    np.testing.assert_array_equal(run(to_int8, run(from_int8, rows)), rows)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_row_that_holds_no_number_stays_none(to_int8, from_int8, value):
    x = np.ones((1, 1, 2, 8), np.float32)
    x[0, 0, 0, 3] = value
    back = run(from_int8, run(to_int8, x))
    assert np.isnan(back[0, 0, 0]).all()
    np.testing.assert_array_equal(back[0, 0, 1], np.float32(127) * np.float32(1 / 127))


def test_halves_are_read_and_written():
    x = np.random.default_rng(0).normal(0, 3, (1, 2, 5, 16)).astype(np.float16)
    rows = run(session(rows_to_int8(OPSET), TensorProto.FLOAT16, TensorProto.INT8), x)
    np.testing.assert_array_equal(rows, int8_rows(x))
    back = run(session(rows_from_int8(OPSET), TensorProto.INT8, TensorProto.FLOAT16, to=TensorProto.FLOAT16), rows)
    np.testing.assert_array_equal(back, floats_of(rows).astype(np.float16))
