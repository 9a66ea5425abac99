"""Exports of even levels in layout codes: where they are, that every runtime gives the same tokens, ways to blocks."""

import numpy as np
import onnx
import pytest
from onnx import helper

from dualbinary import OP
from dualbinary.contract.weight import EACH_GROUP, PlaneFormat
from dualbinary.onnx_files.relayout.convert import relayout
from exporter.options import ExportOptions
from exporter.pipeline import export
from exporter.verify import check
from tests.support.quantized_checkpoints import quantize
from tests.support.sessions import logits

EVEN = {
    "self_attn.o_proj": PlaneFormat(2, 32, levels="even", zero=1.5),
    "mlp.gate_proj": PlaneFormat(4, 32, levels="even", zero=EACH_GROUP),
    "mlp.up_proj": PlaneFormat(3, 32, levels="even", zero=4),
    "mlp.down_proj": PlaneFormat(8, 64, levels="even", zero=100),
}


@pytest.fixture
def checkpoint(pristine_model, tmp_path):
    """Layers of several widths; that of 3 bits has planes."""
    overrides = {f"model.layers.{n}.{module}": form for n in range(2) for module, form in EVEN.items()}
    form = PlaneFormat(4, 32, offset=True, levels="even")
    quantize(pristine_model("llama"), tmp_path / "checkpoint", form=form, overrides=overrides)
    return tmp_path / "checkpoint"


def layouts(path):
    """Layout numbers of nodes, by the module's name."""
    nodes = onnx.load(path, load_external_data=False).graph.node
    return {node.name: helper.get_node_attr_value(node, "layout") for node in nodes if node.op_type == OP.name}


def greedy(path, library):
    ids = [5, 9, 40]
    for _ in range(8):
        ids.append(int(logits(path, np.array([ids]), library)[0, -1].argmax()))
    return ids


@pytest.mark.parametrize("options", [{}, {"accuracy_level": 4}], ids=str)
def test_weights_that_codes_can_hold_are_in_codes_and_pass_the_check(checkpoint, tmp_path, options):
    out = tmp_path / "out" / "model.onnx"
    result = export(checkpoint, out, ExportOptions(**options))
    plain = {name for name, layout in layouts(out).items() if layout == OP.layout_named("plain").number}
    assert plain == {name for name in layouts(out) if "up_proj" in name}
    outcome = check(result, out, None)
    assert outcome.passed, outcome


def test_library_fallback_and_stock_operators_give_the_same_tokens(checkpoint, tmp_path):
    out, stock = tmp_path / "codes" / "model.onnx", tmp_path / "stock" / "model.onnx"
    # With a head of 16 bits: --op matmulnbits stores one of 8 bits in a form of its own.
    export(checkpoint, out, ExportOptions(embedding_bits=16))
    export(checkpoint, stock, ExportOptions(op="matmulnbits", embedding_bits=16))
    tokens = greedy(out, library=True)
    assert greedy(out, library=False) == tokens
    assert greedy(stock, library=False) == tokens


@pytest.mark.parametrize("layout", ["avx512", "neon"])
def test_codes_become_blocks_and_come_back(checkpoint, tmp_path, layout):
    files = {name: tmp_path / name / "model.onnx" for name in ("codes", "blocks", "back")}
    export(checkpoint, files["codes"], ExportOptions())
    relayout(files["codes"], files["blocks"], layout)
    relayout(files["blocks"], files["back"], "plain")

    assert OP.layout_named(layout).number in layouts(files["blocks"]).values()
    for path in files["codes"].parent.iterdir():
        assert (files["back"].parent / path.name).read_bytes() == path.read_bytes(), path.name
    ids = np.array([[5, 9, 40]])
    expected = logits(files["codes"], ids, library=False)
    np.testing.assert_array_equal(logits(files["blocks"], ids, library=False), expected)


@pytest.mark.parametrize("options", [{"fallback": "standard"}, {"fallback": "none"}, {"layout": "avx2"}], ids=str)
def test_other_exports_have_no_codes(checkpoint, tmp_path, options):
    out = tmp_path / "out" / "model.onnx"
    export(checkpoint, out, ExportOptions(**options))
    assert OP.layout_named("codes").number not in layouts(out).values()
