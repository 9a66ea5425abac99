"""`--op dequantizelinear`: the numbers of MatMulNBits, by standard operators that ONNX Runtime folds to floats."""

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from dualbinary.errors import OptionError
from exporter.options import ExportOptions
from exporter.pipeline import export
from exporter.verify import check
from tests.support.tiny_models import CONFIGS, make_model

PROMPT = np.array([[5, 9, 3, 77]])
# Both multiply the same floats; sums have up to 160 terms, and some are taken in another order.
TOLERANCE = 1e-5


def logits(path, told: bool = True) -> np.ndarray:
    options = ort.SessionOptions()
    if told:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feeds = {"input_ids": PROMPT, "attention_mask": np.ones_like(PROMPT)}
    past = [value for value in session.get_inputs() if value.name.startswith("past")]
    feeds |= {value.name: np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32) for value in past}
    return np.asarray(session.run(["logits"], feeds)[0])


@pytest.mark.parametrize(
    ("model", "form", "opset"),
    [
        *((model, {"planes": 4}, 23) for model in ("llama", "llama_tied")),
        # Two bits are types of opset 25; groups of 64 end within the rows of 160 inputs, and 5 points fill no byte.
        ("llama", {"planes": 2}, 25),
        ("llama", {"planes": 2, "offset": False, "zero": 1, "group_size": 32}, 25),
        ("llama", {"planes": 6, "offset": True}, 23),
        ("llama", {"planes": 4, "zero": "group", "group_size": 32}, 23),
        *((model, {"planes": 4, "embedding_bits": 2}, 25) for model in ("llama", "llama_tied")),
    ],
    ids=str,
)
def test_the_numbers_are_those_of_matmulnbits(pristine_model, tmp_path, model, form, opset):
    stock, floats = (
        export(pristine_model(model), tmp_path / op / "model.onnx", ExportOptions(op=op, levels="even", **form)).path
        for op in ("matmulnbits", "dequantizelinear")
    )
    expected = logits(stock)
    assert np.abs(logits(floats) - expected).max() < TOLERANCE * np.abs(expected).max()
    graph = onnx.load(floats, load_external_data=False)
    assert "MatMulNBits" not in {node.op_type for node in graph.graph.node}
    assert next(entry.version for entry in graph.opset_import if entry.domain == "") == opset
    # Codes of six planes are whole here, which are two halves of four bits there; others are no wider.
    assert floats.with_name("model.onnx.data").stat().st_size <= stock.with_name("model.onnx.data").stat().st_size


@pytest.mark.parametrize(
    ("model", "form"),
    [
        ("llama", {"planes": 2}),  # with a head of its own
        ("llama_tied", {"planes": 4, "zero": 3}),
        ("llama", {"planes": 2, "zero": "group", "group_size": 32}),
        ("llama", {"planes": 2, "zero": "group", "group_size": 32, "embedding_bits": 2}),
    ],
    ids=str,
)
def test_a_check_reads_the_weights_of_the_file(pristine_model, tmp_path, model, form):
    out = tmp_path / "model.onnx"
    result = export(pristine_model(model), out, ExportOptions(op="dequantizelinear", levels="even", **form))
    assert check(result, out, None).passed
    graph = onnx.load(out, load_external_data=False)
    points = next(tensor for tensor in graph.graph.initializer if "points" in tensor.name)
    points.raw_data = bytes(byte ^ 0x55 for byte in points.raw_data)
    onnx.save(graph, out)
    assert check(result, out, None).passed  # in PyTorch they are other weights as well


@pytest.mark.parametrize("sizes", [{}, {"vocab_size": 253, "intermediate_size": 90}], ids=str)
def test_a_session_that_is_not_told_computes_the_same(monkeypatch, tmp_path, sizes):
    """It has kernels for packed bits, which must not care how many outputs a product has."""
    model_type, values = CONFIGS["llama"]
    monkeypatch.setitem(CONFIGS, "sized", (model_type, {**values, **sizes}))
    path = export(
        make_model("sized", tmp_path / "model"),
        tmp_path / "model.onnx",
        ExportOptions(op="dequantizelinear", planes=2, levels="even", embedding_bits=2),
    ).path
    told = logits(path)
    assert np.abs(logits(path, told=False) - told).max() < TOLERANCE * np.abs(told).max()


def test_what_says_nothing_is_refused():
    refused: list[dict[str, Any]] = [
        {"accuracy_level": 4},
        {"target": "cuda"},
        {"fallback": "ort2"},
        {"kv_cache": "int8"},
    ]
    for options in refused:
        with pytest.raises(OptionError):
            ExportOptions(op="dequantizelinear", **options)
