"""Models without the library: functions of several formats, and graphs of ONNX Runtime's operators alone."""

import json

import numpy as np
import onnx
import pytest

from dualbinary import OP, InputError
from dualbinary.checkpoint import PER_CHANNEL
from dualbinary.contract.scale_codes import BFLOAT16
from dualbinary.contract.weight import EACH_GROUP, PlaneFormat
from exporter.options import ExportOptions
from exporter.pipeline import export
from exporter.verify import check
from tests.support.quantized_checkpoints import quantize
from tests.support.sessions import logits


def even(planes, group_size, **values):
    return PlaneFormat(planes, group_size, levels="even", **values)


EVEN = {
    f"model.layers.0.{module}": form
    for module, form in {
        "self_attn.q_proj": even(2, PER_CHANNEL, zero=1, per_tensor=True),
        "self_attn.k_proj": even(1, 32, zero=0.5),
        "self_attn.v_proj": even(4, 32, zero=EACH_GROUP),
        "self_attn.o_proj": even(4, 64, zero=7.5, scale_dtype=np.dtype(np.float32)),
        "mlp.gate_proj": even(3, 16, offset=True),
        "mlp.up_proj": even(5, 96, zero=EACH_GROUP, scale_dtype=BFLOAT16),
        "mlp.down_proj": even(8, 32, zero=128, scale_dtype=np.dtype(np.uint8)),
    }.items()
}


@pytest.fixture
def mixed(pristine_model, tmp_path):
    """A checkpoint of even levels of every kind."""
    quantize(pristine_model("llama"), tmp_path / "checkpoint", form=even(4, 32, zero=8), overrides=EVEN)
    return tmp_path / "checkpoint"


@pytest.mark.parametrize("options", [{}, {"accuracy_level": 4}, {"dtype": "fp16"}], ids=str)
def test_graphs_of_stock_operators_are_the_model(mixed, tmp_path, options):
    out = tmp_path / "stock" / "model.onnx"
    result = export(mixed, out, ExportOptions(op="matmulnbits", **options))

    model = onnx.load(out, load_external_data=False)
    assert not any(function.domain == OP.domain for function in model.functions)
    assert {entry.domain for entry in model.opset_import} <= {"", "com.microsoft"}
    assert not any(node.domain == OP.domain for node in model.graph.node)
    assert result.report["op"] == "com.microsoft::MatMulNBits-1"
    held = sum((out.parent / name).stat().st_size for name in ("model.onnx.data",))
    assert 0 < result.report["totals"]["plane_bytes"] < held
    outcome = check(result, out, None)
    assert outcome.passed, outcome


def test_stock_operators_give_the_tokens_of_the_library_and_of_the_functions(mixed, tmp_path):
    files = {op: tmp_path / op / "model.onnx" for op in ("dualbinary", "matmulnbits")}
    for op, out in files.items():
        export(mixed, out, ExportOptions(op=op, embedding_bits=16))
    ids = np.random.default_rng(0).integers(0, 64, (1, 24))
    answers = [
        logits(files["dualbinary"], ids),
        logits(files["dualbinary"], ids, library=False),
        logits(files["matmulnbits"], ids, library=False),
    ]
    for answer in answers[1:]:
        np.testing.assert_allclose(answer, answers[0], atol=2e-3 * np.abs(answers[0]).max())
        np.testing.assert_array_equal(answer.argmax(axis=-1), answers[0].argmax(axis=-1))


def test_free_levels_are_refused(pristine_model, tmp_path):
    out = tmp_path / "out" / "model.onnx"
    with pytest.raises(InputError, match=r"op: expected dualbinary for model\.layers\.0\.\S+, whose free levels"):
        export(pristine_model("llama"), out, ExportOptions(op="matmulnbits", planes=2))
    assert not out.parent.exists() or not list(out.parent.iterdir())


@pytest.mark.parametrize("options", [{"layout": "avx2"}, {"fallback": "none"}, {"embedding_bits": 3}], ids=str)
def test_options_without_meaning_are_refused(options):
    with pytest.raises(InputError, match=f"{next(iter(options))}: expected .* with op matmulnbits"):
        ExportOptions(op="matmulnbits", **options)


def test_genai_config_names_no_library(mixed, tmp_path):
    out = tmp_path / "stock" / "model.onnx"
    export(mixed, out, ExportOptions(op="matmulnbits"))
    assert "custom_ops_library" not in json.dumps(json.loads((out.parent / "genai_config.json").read_text()))
