"""Vocabulary tables that a checkpoint stores in planes: exported as they are, or stored anew where that is asked."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_ir.passes.common import RemoveUnusedNodesPass

from dualbinary import OP, InputError
from dualbinary.contract.layout import CODES
from dualbinary.contract.weight import EACH_GROUP, PlaneFormat
from exporter.graph.layers import find_embeddings
from exporter.graph.passes.vocabulary import VocabularyPass
from exporter.graph.passes.vocabulary_planes import PlaneTables
from exporter.options import ExportOptions
from exporter.pipeline import export
from exporter.stored.tensor_jobs import plane_arrays
from exporter.verify import check
from tests.support.quantized_checkpoints import quantize
from tests.support.random_weights import plane_formats, random_weight
from tests.support.sessions import logits
from tests.support.tiny_models import VOCABULARY
from tests.support.vocabulary_graphs import model_of

TABLES = {"llama": ("model.embed_tokens", "lm_head"), "llama_tied": ("model.embed_tokens",)}
FOUR = PlaneFormat(4, 32, levels="even", zero=EACH_GROUP)
EVEN = {
    "4 bits": FOUR,
    "6 bits, 16, codes": PlaneFormat(6, 16, levels="even", zero=32, scale_dtype=np.dtype(np.uint8)),
    "4 bits, one step": PlaneFormat(4, -1, levels="even", zero=8, per_tensor=True),
}
WIDTH = 80


def stored(model_dir, tmp_path, name, forms):
    quantize(model_dir, tmp_path / "checkpoint", tables=dict(zip(TABLES[name], forms, strict=False)))
    return tmp_path / "checkpoint"


def session_of(weight, form, *, in_codes):
    """A session that looks up rows of the table that `weight` stores."""
    model = model_of(weight.N, weight.K)
    model.graph.outputs.pop()
    RemoveUnusedNodesPass()(model)
    tables = PlaneTables(form, ir.DataType.FLOAT, 0, in_codes=in_codes)
    run = VocabularyPass(find_embeddings(model), None, tables, tied=None, check_ids=True)
    run(model)
    del model.graph.initializers["embedding"]
    (table,) = run.tables
    assert table.plane_format is not None
    arrays = plane_arrays(weight.with_own_scales(), table.plane_format.layout)
    for value, array in zip(table.values, arrays, strict=True):
        value.const_value = ir.tensor(array, name=value.name)
    model.graph.opset_imports.pop(OP.domain, None)  # of the head, which is not here
    return table, ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])


@settings(max_examples=60)
@given(form=plane_formats(WIDTH).filter(lambda form: form.even), seed=st.integers(0, 99), in_codes=st.booleans())
def test_an_embedding_reads_every_form_of_even_levels(form, seed, in_codes):
    weight = random_weight(np.random.default_rng(seed), 5, WIDTH, form)
    table, session = session_of(weight, form, in_codes=in_codes)

    ids = np.array([[0, 4, 2], [1, 1, 3]])
    found = np.asarray(session.run(None, {"input_ids": ids})[0])

    assert table.stored
    assert table.plane_format is not None
    assert (table.plane_format.layout == CODES) == (in_codes and form.in_codes)
    wanted = weight.dequantize()
    # Float32: a scale of two rounded operations where it is a code, a product and a sum, each off by 2^-24 of what it
    # makes; beside an offset that is less than the largest step times the largest number, and the offset.
    largest = np.abs(wanted).max() + np.abs(wanted - wanted.mean(axis=1, keepdims=True)).max() * 2
    np.testing.assert_allclose(found, wanted[ids], rtol=0, atol=5 * 2.0**-24 * 2**form.planes * largest)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("form", EVEN.values(), ids=EVEN)
def test_a_stored_table_is_exported_as_it_is(pristine_model, tmp_path, library, name, form):
    checkpoint = stored(pristine_model(name), tmp_path, name, (form, form))
    out = tmp_path / "out" / "model.onnx"

    result = export(checkpoint, out, ExportOptions())

    rows = result.report["tables"]
    assert [(row["parameter"], row["bits"], row["stored"]) for row in rows] == [
        (f"{module}.weight", form.planes, True) for module in TABLES[name]
    ]
    assert check(result, out, library).passed
    ids = np.array([[5, 9, 40, 3]])
    alike = [logits(out, ids, with_library) for with_library in (True, False)]
    np.testing.assert_allclose(*alike, rtol=0, atol=4e-3 * np.abs(alike[0]).max())  # the tolerance of --check


def test_the_other_table_gets_the_default(pristine_model, tmp_path, library):
    checkpoint = stored(pristine_model("llama"), tmp_path, "llama", (FOUR,))
    out = tmp_path / "out" / "model.onnx"
    result = export(checkpoint, out, ExportOptions())
    assert [(row["bits"], row["stored"]) for row in result.report["tables"]] == [(4, True), (8, False)]
    assert check(result, out, library).passed


def test_a_head_may_have_free_levels_and_an_embedding_not(pristine_model, tmp_path, library):
    free = PlaneFormat(3, 32, offset=True)
    checkpoint = stored(pristine_model("llama"), tmp_path, "llama", (FOUR, free))
    out = tmp_path / "out" / "model.onnx"
    result = export(checkpoint, out, ExportOptions())
    assert [row["levels"] for row in result.report["tables"]] == ["even", "free"]
    assert check(result, out, library).passed

    checkpoint = stored(pristine_model("llama_tied"), tmp_path / "tied", "llama_tied", (free,))
    message = r"model.embed_tokens.weight: stored in planes of free levels, which a token embedding does not read"
    with pytest.raises(InputError, match=message):
        export(checkpoint, out, ExportOptions(), force=True)
    result = export(checkpoint, out, ExportOptions(embedding_bits=8), force=True)
    assert check(result, out, library).passed


@pytest.mark.parametrize(
    ("options", "bits"), [({"embedding_bits": 8}, 8), ({"embedding_bits": 32}, 32), ({"embedding_bits": 4}, 4)], ids=str
)
def test_other_bits_store_the_table_anew_and_say_so(pristine_model, tmp_path, library, options, bits):
    checkpoint = stored(pristine_model("llama_tied"), tmp_path, "llama_tied", (FOUR,))
    out = tmp_path / "out" / "model.onnx"
    result = export(checkpoint, out, ExportOptions(**options))
    assert [(row["bits"], row["stored"]) for row in result.report["tables"]] == [(bits, bits == 4)]
    note = f"model.embed_tokens.weight: stored anew in {bits} bits, from the checkpoint's 4 planes"
    assert (note in result.warnings) == (bits != 4)
    assert check(result, out, library).passed


@pytest.mark.parametrize(
    ("options", "form"),
    [({"op": "matmulnbits"}, FOUR), ({"target": "cuda", "fallback": "none"}, replace(FOUR, planes=8))],
    ids=["matmulnbits", "cuda"],
)
def test_what_the_graph_cannot_hold_is_stored_anew(pristine_model, tmp_path, options, form):
    even = PlaneFormat(4, 32, levels="even", zero=8)
    quantize(pristine_model("llama_tied"), tmp_path / "checkpoint", form=even, tables={TABLES["llama_tied"][0]: form})
    result = export(tmp_path / "checkpoint", tmp_path / "out" / "model.onnx", ExportOptions(**options))
    (row,) = result.report["tables"]
    assert (row["bits"], row["levels"], row["stored"]) == (8, "blocks", False)


def test_scales_of_eight_bits_are_those_of_tables_too(pristine_model, tmp_path, library):
    checkpoint = stored(pristine_model("llama_tied"), tmp_path, "llama_tied", (FOUR,))
    out = tmp_path / "out" / "model.onnx"
    sizes = []
    for bits in (None, 8):
        result = export(checkpoint, out, ExportOptions(scale_bits=bits), force=True)
        assert check(result, out, library).passed
        sizes.append(result.report["tables"][0]["bytes"])
    (row,) = result.report["tables"]
    groups = row["weights"] // VOCABULARY // 32
    assert sizes[0] - sizes[1] == VOCABULARY * (2 * groups - (groups + 2))


def test_a_table_that_the_model_does_not_have_is_named(pristine_model, tmp_path):
    quantize(pristine_model("llama_tied"), tmp_path / "checkpoint", tables={"lm_head": FOUR})
    with pytest.raises(InputError, match=r"overrides\.lm_head: .* its vocabulary tables are model\.embed_tokens"):
        export(tmp_path / "checkpoint", tmp_path / "out" / "model.onnx", ExportOptions())
