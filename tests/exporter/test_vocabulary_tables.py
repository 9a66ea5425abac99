"""Vocabulary tables in fewer bits: what is stored, and what the embedding makes of it."""

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx_ir.passes.common import RemoveUnusedNodesPass

from dualbinary import OP, InputError
from exporter.graph.export_graph import VocabularyTable
from exporter.graph.layers import find_embeddings, find_linears
from exporter.graph.passes.vocabulary import VocabularyPass
from exporter.graph.passes.vocabulary_blocks import BlockTables
from exporter.graph.passes.vocabulary_planes import PlaneTables
from exporter.stored.vocabulary_tables import dequantize_table, quantize_table
from tests.support.vocabulary_graphs import model_of

ROWS = 5
FORMS = {
    "planes": PlaneTables,
    "codes": lambda *args: PlaneTables(*args, in_codes=True),
    "blocks": lambda *args: BlockTables(*args, check_ids=True),
}
FLOATS = {"fp32": ir.DataType.FLOAT, "fp16": ir.DataType.FLOAT16}


class Rows:
    """The parameters that quantize_table reads, all of them one tensor."""

    def __init__(self, tensor):
        self._tensor = tensor

    def read_rows(self, parameter, step, dtype):
        assert step > 0
        for rows in self._tensor.split(2):  # two at a time, so that a table is made of several parts
            yield rows.to(dtype)


def rewritten(kind, bits, rows, width, *, tied=False):
    """A model with the tables of a form, and these."""
    model = model_of(rows, width)
    (head,) = find_linears(model)
    form, embeddings = FORMS[kind](bits, ir.DataType.FLOAT, 0), find_embeddings(model)
    run = VocabularyPass(embeddings, head, form, tied=embeddings[0] if tied else None, check_ids=True)
    run(model)
    return model, run.tables


def filled(table: VocabularyTable, weights: np.ndarray) -> list[np.ndarray]:
    return quantize_table(table, Rows(torch.from_numpy(weights)))


def weights_of(rows, width, seed=0, scale=1.0):
    return (np.random.default_rng(seed).normal(size=(rows, width)) * scale).astype(np.float32)


def embedding_of(kind, bits, rows, width, dtype="fp32"):
    """A session that looks tokens up in random rows, and what it should find."""
    model = model_of(rows, width)
    model.graph.outputs.pop()
    RemoveUnusedNodesPass()(model)
    form = FORMS[kind](bits, FLOATS[dtype], 0)
    run = VocabularyPass(find_embeddings(model), None, form, tied=None, check_ids=True)
    run(model)
    del model.graph.initializers["embedding"]
    (table,) = run.tables
    arrays = filled(table, weights_of(rows, width))
    for value, array in zip(table.values, arrays, strict=True):
        value.const_value = ir.tensor(array, name=value.name)
    model.graph.outputs[0].dtype = FLOATS[dtype]
    model.graph.opset_imports.pop(OP.domain, None)  # of the head, which is not here
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    return session, dequantize_table(table, arrays)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("width", [32, 40, 64, 576, 600])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("kind", ["planes", "codes"])
def test_the_embedding_finds_the_rows_of_the_planes_exactly(kind, bits, width, dtype):
    session, expected = embedding_of(kind, bits, ROWS, width, dtype)

    ids = np.array([[0, 4, 2], [1, 1, 3]])
    rows = np.asarray(session.run(None, {"input_ids": ids})[0])

    assert rows.dtype == {"fp32": np.float32, "fp16": np.float16}[dtype]
    np.testing.assert_array_equal(rows, expected[ids].astype(rows.dtype))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_embedding_finds_the_rows_of_quantization_blocks(bits):
    session, expected = embedding_of("blocks", bits, ROWS, 96)

    ids = np.array([[0, 4, 2], [1, 1, 3]])
    rows = np.asarray(session.run(None, {"input_ids": ids})[0])

    np.testing.assert_allclose(rows, expected[ids], rtol=1e-6)  # 8 bits: a sum of two rounded products


@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize("token", [-1, -ROWS, ROWS, 1 << 40])
@pytest.mark.parametrize("bits", [2, 8])
def test_ids_outside_of_the_table_fail(kind, bits, token):
    session, _ = embedding_of(kind, bits, ROWS, 32)

    with pytest.raises(Exception, match="out of data bounds"):  # ONNX Runtime's exceptions share no narrower base
        session.run(None, {"input_ids": np.array([[1, token]])})


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("tied", [True, False])
def test_the_head_multiplies_by_the_planes_of_its_table(bits, tied):
    model, tables = rewritten("planes", bits, ROWS, 64, tied=tied)

    (node,) = [node for node in model.graph if node.op_type == OP.name]
    assert node.domain == OP.domain
    assert tuple(node.inputs[1:]) == tables[-1].values
    assert [table.parameter for table in tables] == (["embedding"] if tied else ["embedding", "head"])
    attributes = {name: attribute.as_int() for name, attribute in node.attributes.items()}
    assert (attributes["K"], attributes["N"], attributes["layout"], attributes["levels"]) == (64, ROWS, 1, 1)
    assert model.graph.opset_imports[OP.domain] == 2


# Bytes of a row: planes, for 3 and 4 bits with a zero point for 32 weights; a code for 32 weights and 2 bytes for the
# factor, or 2 bytes for 64 weights.
@pytest.mark.parametrize(
    ("bits", "width", "expected"),
    [(2, 576, 2 * 72 + 20), (3, 576, 3 * (72 + 3) + 20), (4, 576, 4 * (72 + 3) + 20), (8, 576, 8 * 72 + 18),
     (4, 96, 4 * (12 + 1) + 5), (8, 40, 8 * 8 + 4)],
)  # fmt: skip
def test_tables_take_the_bits_that_they_should(bits, width, expected):
    _, tables = rewritten("planes", bits, ROWS, width)

    stored = sum(array.nbytes for array in filled(tables[0], weights_of(ROWS, width)))

    assert stored == ROWS * expected


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("width", [40, 576])
def test_codes_of_a_table_are_its_planes(bits, width):
    tables = [rewritten(kind, bits, ROWS, width)[1][0] for kind in ("planes", "codes")]
    weights = weights_of(ROWS, width)
    stored = [filled(table, weights) for table in tables]
    assert stored[1][0].shape[::2] == (ROWS, tables[1].group_size * bits // 8)
    for rows in (slice(None), slice(1, 4)):
        planes, codes = (dequantize_table(table, arrays, rows) for table, arrays in zip(tables, stored, strict=True))
        np.testing.assert_array_equal(codes, planes)


@given(
    bits=st.sampled_from([2, 4, 8]),
    width=st.sampled_from([16, 32, 48, 64, 192]),
    exponent=st.integers(-3, 3),
    seed=st.integers(0, 99),
)
def test_blocks_are_within_half_a_step(bits, width, exponent, seed):
    original = weights_of(ROWS, width, seed, 10.0**exponent)
    _, (table, _) = rewritten("blocks", bits, ROWS, width)

    restored = dequantize_table(table, filled(table, original))

    blocks = (ROWS, -1, table.group_size)
    largest = np.abs(original.reshape(blocks)).max(axis=2, keepdims=True)
    most = {2: 1, 4: 7, 8: 119}[bits]
    # Half a step of rounding, and float16 scales are off by up to 2^-11, which the largest code multiplies.
    bound = largest / most * (0.5 + most * 2.0**-11) * 1.001
    assert (np.abs(restored - original).reshape(blocks) <= bound).all()


@given(bits=st.sampled_from([2, 3, 4, 8]), width=st.integers(1, 100), exponent=st.integers(-3, 3))
def test_planes_lose_less_than_blocks_of_their_bits_may(bits, width, exponent):
    original = weights_of(ROWS, width, width, 10.0**exponent)
    _, (table, _) = rewritten("planes", bits, ROWS, width)

    restored = dequantize_table(table, filled(table, original))

    largest = np.abs(original).max(axis=1, keepdims=True)
    bound = (
        (ROWS * width) ** 0.5 * largest.max() / (2 ** (bits - 1) - 0.5) / 2
    )  # a row as one block, all at half a step
    assert np.linalg.norm(restored - original) <= bound * 1.02


@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_table_of_zeros_stays_zero(kind, bits):
    _, (table, _) = rewritten(kind, bits, ROWS, 32)

    assert (dequantize_table(table, filled(table, np.zeros((ROWS, 32), np.float32))) == 0).all()


@pytest.mark.parametrize("kind", FORMS)
def test_values_beyond_float16_scales_are_refused(kind):
    _, (table, _) = rewritten(kind, 4, ROWS, 32)

    with pytest.raises(InputError, match=r"embedding_bits: expected 32 for embedding, with values up to 1e\+09, got 4"):
        filled(table, np.full((ROWS, 32), 1e9, np.float32))


@pytest.mark.parametrize("width", [40, 50])
def test_rows_that_no_block_divides_stay_float16(width):
    _, (table, _) = rewritten("blocks", 4, ROWS, width)

    assert (table.bits, [value.dtype for value in table.values]) == (16, [ir.DataType.FLOAT16])
