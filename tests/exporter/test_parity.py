"""Exported models compute what transformers computes with the same weights."""

import onnx_ir as ir
import pytest

from exporter.verify import check
from tests.exporter.tiny_models import CONFIGS


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("name", CONFIGS)
def test_export_agrees_with_transformers(pristine_model, exported, library, name, dtype):
    result, out = exported(pristine_model(name), dtype=dtype)

    outcome = check(result, out, library)

    assert outcome.passed, outcome
    assert outcome.kernel == "library"
    assert outcome.top1 >= 0.95


@pytest.mark.parametrize("fallback", ["ort4", "ort2", "standard"])
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_fallback_agrees_with_transformers_without_the_library(pristine_model, exported, fallback, dtype):
    result, out = exported(pristine_model("qwen2"), fallback=fallback, dtype=dtype)

    outcome = check(result, out, None)

    assert outcome.passed, outcome
    assert outcome.kernel == "fallback"


@pytest.mark.parametrize(
    "options",
    [
        {"planes": 1},
        {"planes": 2, "offset": True, "group_size": 32},
        {"planes": 8, "group_size": 128},
        {"planes": 3, "group_size": 96},
        {"accuracy_level": 4},
        {"embedding_bits": 4},
        {"embedding_bits": 16},
        {"embedding_bits": 32, "dtype": "fp16"},
    ],
    ids=str,
)
def test_options_change_the_weights_but_not_the_agreement(pristine_model, exported, library, options):
    result, out = exported(pristine_model("llama_tied"), **options)

    assert check(result, out, library).passed


def test_check_notices_a_wrong_graph(pristine_model, exported, library):
    result, out = exported(pristine_model("llama"))
    model = ir.load(out)
    attention = next(node for node in model.graph if node.op_type == "GroupQueryAttention")
    attention.attributes["scale"] = ir.AttrFloat32("scale", attention.attributes["scale"].as_float() * 1.1)
    ir.save(model, out)

    assert not check(result, out, library).passed
