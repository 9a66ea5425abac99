"""Vocabulary tables in fewer bits."""

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dualbinary import InputError
from exporter.graph.export_graph import VocabularyTable
from exporter.stored.vocabulary_tables import dequantize_table, quantize_table

ROWS = 5


class Rows:
    """The parameters that quantize_table reads, all of them one tensor."""

    def __init__(self, tensor):
        self._tensor = tensor

    def read_rows(self, parameter, step, dtype):
        assert step > 0
        for rows in self._tensor.split(2):  # two at a time, so that a table is made of several parts
            yield rows.to(dtype)


def make_table(bits, rows, width, block_size):
    def value(name, shape, dtype):
        return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))

    blocks = width // block_size
    codes = value("codes", [rows, blocks, block_size // 2], ir.DataType.UINT8)
    scales = value("scales", [rows, blocks, 1], ir.DataType.FLOAT16)
    return VocabularyTable("t", bits, block_size, (codes,) * {4: 1, 8: 2}[bits], scales)


@given(
    bits=st.sampled_from([4, 8]),
    block_size=st.sampled_from([16, 32, 64]),
    blocks=st.integers(1, 3),
    exponent=st.integers(-3, 3),
    seed=st.integers(0, 99),
)
def test_table_is_within_half_a_step(bits, block_size, blocks, exponent, seed):
    rng = np.random.default_rng(seed)
    original = (rng.normal(size=(ROWS, blocks * block_size)) * 10.0**exponent).astype(np.float32)
    table = make_table(bits, ROWS, blocks * block_size, block_size)

    arrays = quantize_table(table, Rows(torch.from_numpy(original)))
    restored = dequantize_table(table, arrays)

    largest = np.abs(original.reshape(ROWS, blocks, block_size)).max(axis=2, keepdims=True)
    step = largest / {4: 7, 8: 119}[bits]
    # Half a step of rounding, and float16 scales are off by up to 2^-11, which the largest code multiplies.
    bound = step * (0.5 + {4: 7, 8: 119}[bits] * 2.0**-11) * 1.001
    error = np.abs(restored - original).reshape(ROWS, blocks, block_size)
    assert (error <= bound).all()


def test_table_of_zeros_stays_zero():
    table = make_table(8, ROWS, 32, 16)

    arrays = quantize_table(table, Rows(torch.zeros(ROWS, 32)))

    assert (dequantize_table(table, arrays) == 0).all()


def test_values_beyond_float16_scales_are_refused():
    table = make_table(4, ROWS, 32, 16)

    with pytest.raises(InputError, match=r"embedding_bits: expected 32 for t, with values up to 1e\+09, got 4"):
        quantize_table(table, Rows(torch.full((ROWS, 32), 1e9)))
