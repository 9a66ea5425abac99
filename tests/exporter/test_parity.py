"""Exported models compute what transformers computes with the same weights."""

import numpy as np
import onnx_ir as ir
import pytest
from safetensors.torch import load_file, save_file

from exporter.graph.architectures import VERIFIED
from exporter.verify import check
from runtime_ext.decoder import Decoder
from tests.support.families import by_kind
from tests.support.same_bits import assert_same_bits
from tests.support.sessions import logits
from tests.support.tiny_models import CONFIGS, VOCABULARY

# In the padded batch, one token has two experts between which float16 decides otherwise than float32.
_DECIDED_BY_ROUNDING = {("granitemoe", "fp16")}
# The same of an early token, which all that follow see, in the blocks' rounding; of six other prompts none is.
_WITHOUT_BLOCKS = {("deepseek_v3", "fp16")}


@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, "fp32") for name in CONFIGS), *by_kind((name, "fp16") for name in CONFIGS)]
)
def test_export_agrees_with_transformers(pristine_model, fitted, library, name, dtype):
    fuse = "none" if (name, dtype) in _WITHOUT_BLOCKS else "all"
    # Planes of free levels once for every kind, and even ones, whose fit is quick, for all.
    levels = "free" if dtype == "fp16" else "even"
    result, out = fitted(pristine_model(name), dtype=dtype, levels=levels, logits="all", fuse=fuse)

    outcome = check(result, out, library)

    if (name, dtype) in _DECIDED_BY_ROUNDING:
        assert outcome.cases[0].relative_error <= outcome.tolerance, outcome
        assert outcome.kl < 1e-4, outcome
    else:
        assert outcome.passed, outcome
    assert outcome.cases[0].tokens == outcome.longest >= 40
    assert outcome.kernel == "library"
    assert outcome.cases[0].top1 >= 0.95


@pytest.mark.parametrize("name", by_kind(CONFIGS))
def test_logits_of_the_last_token_agree_with_transformers(pristine_model, fitted, library, name):
    result, out = fitted(pristine_model(name), group_size=32, offset=True, scale_bits=8)  # as if nothing were said

    outcome = check(result, out, library)

    assert outcome.passed, outcome
    assert outcome.cases[0].tokens == 1 + 8  # one for the prompt, then one for each decoded token
    assert_same_bits(Decoder.load(out, threads=1), VOCABULARY, lengths=(14,))


@pytest.mark.parametrize(
    ("fallback", "dtype", "level", "scale_bits"),
    [
        *(("ort2", dtype, 4, 16) for dtype in ("fp32", "fp16")),
        ("ort4", "fp32", 0, 8),
        ("ort4", "fp32", 0, 16),
        ("ort4", "fp16", 0, 16),
        ("ort4", "fp16", 4, 8),
        ("standard", "fp32", 0, 16),
        ("standard", "fp16", 0, 8),
        ("standard", "fp16", 4, 16),
        # Pairs of the values above, each of which has been seen.
        pytest.param("ort4", "fp16", 0, 8, marks=pytest.mark.slow),
        pytest.param("ort4", "fp16", 4, 16, marks=pytest.mark.slow),
        pytest.param("standard", "fp32", 0, 8, marks=pytest.mark.slow),
        pytest.param("standard", "fp16", 0, 16, marks=pytest.mark.slow),
        pytest.param("standard", "fp16", 4, 8, marks=pytest.mark.slow),
    ],
)
def test_fallback_agrees_with_transformers_without_the_library(
    pristine_model, fitted, fallback, dtype, level, scale_bits
):
    options = {"dtype": dtype, "accuracy_level": level, "scale_bits": scale_bits, "levels": "free"}
    result, out = fitted(pristine_model("qwen2"), fallback=fallback, **options)

    outcome = check(result, out, None)

    assert outcome.passed, outcome
    assert outcome.kernel == "fallback"


@pytest.mark.parametrize(
    "options",
    [
        {"levels": "free", "planes": 1},
        {"levels": "free", "planes": 2, "offset": True, "group_size": 32},
        {"levels": "free", "planes": 8, "group_size": 128},
        {"levels": "free", "planes": 3, "group_size": 96},
        {"levels": "free", "scale_bits": 8},
        {"levels": "free", "scale_bits": 8, "planes": 2, "group_size": 96, "accuracy_level": 4},
        {"levels": "free", "accuracy_level": 4},
        {"levels": "free", "accuracy_level": 4, "dtype": "fp16"},
        {"embedding_bits": 2},
        {"embedding_bits": 3, "dtype": "fp16"},
        {"embedding_bits": 4},
        {"embedding_bits": 16},
        {"embedding_bits": 32, "dtype": "fp16"},
    ],
    ids=str,
)
def test_options_change_the_weights_but_not_the_agreement(pristine_model, fitted, library, options):
    result, out = fitted(pristine_model("llama_tied"), **options)

    assert check(result, out, library).passed


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("name", ["llama", "llama_tied"])
def test_a_head_of_planes_agrees_without_the_library(pristine_model, fitted, name, bits):
    result, out = fitted(pristine_model(name), embedding_bits=bits)

    assert check(result, out, None).passed


def test_every_verified_type_has_a_tiny_model():
    assert {model_type for model_type, _ in CONFIGS.values()} == VERIFIED


def test_tied_head_that_is_stored_twice_is_stored_once_and_agrees(tiny_model, fitted, library):
    model_dir = tiny_model("llama_tied")
    tensors = load_file(model_dir / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, model_dir / "model.safetensors", metadata={"format": "pt"})

    result, out = fitted(model_dir)

    assert len(result.graph.tables) == 1
    assert check(result, out, library).passed


def test_linear_biases_of_attention_stay_exact_over_long_prompts(pristine_model, fitted):
    """ALiBi in float16: what follows a prefix must not change its logits, however long it is."""
    _, out = fitted(pristine_model("bloom"), dtype="fp16", logits="all")
    ids = np.random.default_rng(0).integers(4, 250, (1, 2048))

    short, long = (logits(out, ids[:, :n], library=False)[0, :64].astype(np.float32) for n in (64, 2048))

    # The same sums in another order: a few units of float16's rounding.
    assert np.abs(short - long).max() < 8 * 2.0**-11 * np.abs(short).max()


def test_check_notices_a_wrong_graph(pristine_model, fitted, library):
    result, out = fitted(pristine_model("llama"), fuse="none")
    model = ir.load(out)
    attention = next(node for node in model.graph if node.op_type == "GroupQueryAttention")
    attention.attributes["scale"] = ir.AttrFloat32("scale", attention.attributes["scale"].as_float() * 1.1)
    ir.save(model, out)

    assert not check(result, out, library).passed
