"""Values of config.json as published checkpoints have them, in the spellings of transformers 4 and 5."""

import json
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

from dualbinary import InputError
from exporter.graph.architectures import VERIFIED
from exporter.options import ExportOptions
from exporter.pipeline import export
from tests.support.exact_models import (
    SAME,
    configuration,
    exact_model,
    exported_logits,
    loaded,
    relative_error,
    torch_logits,
)
from tests.support.quick_fit import QUICK
from tests.support.tiny_models import edit_config

_SIZES = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
_SHARED = _SIZES | {"num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 0}
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 10000.0}
_MIXED = ["sliding_attention", "full_attention"]
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_GEMMA3 = {"head_dim": 16, "sliding_window": 16, "layer_types": _MIXED, "query_pre_attn_scalar": 16}

# Name: model type, what its configuration class is made of, and what config.json gets on top.
PUBLISHED: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "YaRN of GPT-OSS": ("llama", {"rope_parameters": _YARN | {"truncate": False, "beta_fast": 32.0}}, {}),
    "YaRN of DeepSeek": ("qwen2", {"rope_parameters": _YARN | {"mscale": 1.0, "mscale_all_dim": 0.7}}, {}),
    "YaRN with null options": ("qwen3", {"rope_parameters": _YARN | {"beta_fast": None, "attention_factor": None}}, {}),
    "YaRN with a factor of one": ("olmo2", {"rope_parameters": _YARN | {"attention_factor": 1.0}}, {}),
    "original length beside the rotation": (
        "llama",
        {"rope_parameters": _YARN},
        {"original_max_position_embeddings": 20},
    ),
    "partial rotation of a type without": ("llama", {}, {"partial_rotary_factor": 0.5}),
    "multimodal sections of a text model": (
        "qwen2",
        {},
        {"rope_scaling": {"type": "default", "mrope_section": [4, 4]}},
    ),
    "Llama 3.1": (
        "llama",
        {
            "rope_parameters": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
            | {"original_max_position_embeddings": 32, "rope_theta": 500000.0}
        },
        {},
    ),
    "dynamic NTK": ("qwen2", {}, {"rope_parameters": None, "rope_scaling": {"type": "dynamic", "factor": 2.0}}),
    "Hunyuan 7B": (
        "hunyuan_v1_dense",
        {"head_dim": 16},
        {"rope_parameters": None, "rope_theta": 1e4}
        | {"rope_scaling": {"type": "dynamic", "alpha": 1000.0, "factor": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0}},
    ),
    "Gemma 3 27B": ("gemma3_text", _GEMMA3 | {"query_pre_attn_scalar": 21}, {}),
    "Gemma 3, linear rotation of full layers": (
        "gemma3_text",
        _GEMMA3,
        {"rope_parameters": None, "rope_theta": 1e6, "rope_local_base_freq": 1e4}
        | {"rope_scaling": {"rope_type": "linear", "factor": 8.0}},
    ),
    "Gemma 2 without layer types": ("gemma2", {"head_dim": 16, "sliding_window": 16}, {"layer_types": None}),
    "Gemma 2 with full attention alone": (
        "gemma2",
        {"head_dim": 16, "sliding_window": 16, "layer_types": ["full_attention"] * 2},
        {},
    ),
    "Gemma 3 with full attention alone": (
        "gemma3_text",
        {"head_dim": 16, "sliding_window": 16, "layer_types": ["full_attention"] * 2},
        {},
    ),
    "Qwen 2 with windows above": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1},
        {},
    ),
    "Qwen 2 without windows": (
        "qwen2",
        {"use_sliding_window": False, "sliding_window": 16, "max_window_layers": 1},
        {},
    ),
    "Qwen 3 of experts with windows": (
        "qwen3_moe",
        _EXPERTS | {"head_dim": 16, "use_sliding_window": True, "sliding_window": 16},
        {},
    ),
    "Phi 3 mini": (
        "phi3",
        {"original_max_position_embeddings": 32, "sliding_window": 48}
        | {"rope_parameters": {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [3.0] * 8}},
        {},
    ),
    "Phi 4 mini": (
        "phi3",
        {"hidden_size": 128, "original_max_position_embeddings": 32, "tie_word_embeddings": True}
        | {
            "rope_parameters": {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [3.0] * 8}
            | {"partial_rotary_factor": 0.5}
        },
        {},
    ),
    "Command R": ("cohere", {"logit_scale": 0.0625, "tie_word_embeddings": True}, {}),
    "Granite 3.3": (
        "granite",
        {"embedding_multiplier": 12.0, "attention_multiplier": 0.0625, "residual_multiplier": 0.22}
        | {"logits_scaling": 8.0, "tie_word_embeddings": True},
        {},
    ),
    "OLMo 1.7 7B": ("olmo", {"clip_qkv": 0.5}, {}),
    "StableLM 2 12B without norms of queries": ("stablelm", {"use_parallel_residual": True}, {}),
    "Pythia's relatives that are sequential": ("gpt_neox", {"use_parallel_residual": False}, {"rotary_pct": 0.5}),
    "StarCoder 2 with a window": ("starcoder2", {"sliding_window": 16, "tie_word_embeddings": True}, {}),
    "Minitron": ("nemotron", {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.25}}, {}),
    "SmolLM 3": ("smollm3", {"no_rope_layer_interval": 2, "rope_parameters": {"rope_theta": 5e6}}, {}),
    "SmolLM 3 with layer types alone": ("smollm3", {"sliding_window": 16, "layer_types": _MIXED}, {}),
    "Mistral with layer types": ("mistral", {"sliding_window": 16}, {"layer_types": _MIXED}),
    "Phi 3 with layer types": ("phi3", {"sliding_window": 16}, {"layer_types": _MIXED}),
    "window of a Mistral in a Llama": ("llama", {}, {"sliding_window": 16}),
    "window of a Qwen in a StableLM": ("stablelm", {}, {"sliding_window": 16, "use_sliding_window": True}),
    "MLP as wide as the model": ("gpt2", {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_inner": 64}, {}),
    "window of heads that keep an Attention node": (
        "qwen2",
        {"head_dim": 20, "use_sliding_window": True, "sliding_window": 16, "layer_types": _MIXED},
        {},
    ),
}


def _saved(directory: Path, model_type: str, values: dict[str, Any], on_top: dict[str, Any]) -> Path:
    """A model directory; None on top removes the key from config.json."""
    sizes = _SIZES if model_type == "gpt_neox" else {} if model_type == "gpt2" else _SHARED
    exact_model(configuration(model_type, sizes | {"vocab_size": 64} | values)).save_pretrained(directory)
    edit_config(directory, **on_top)
    return directory


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_values_compute_what_transformers_computes(tmp_path, name):
    model_type, values, on_top = PUBLISHED[name]
    directory = _saved(tmp_path / "model", model_type, values, on_top)

    exported = exported_logits(directory, tmp_path / "out" / "model.onnx")

    error = relative_error(exported, torch_logits(loaded(directory)), experts="num_experts" in values)
    assert error < SAME


# What transformers 4 wrote: model type, values as transformers 5 has them, keys of config.json in place of those.
OLD_SPELLINGS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "rope_theta": (
        "llama",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 300.0}},
        {"rope_parameters": None, "rope_theta": 300.0, "rope_scaling": None, "dtype": None, "torch_dtype": "float32"},
    ),
    "rope_scaling": (
        "qwen2",
        {"rope_parameters": _YARN | {"attention_factor": 1.2}},
        {"rope_parameters": None, "rope_theta": 10000.0}
        | {
            "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
            | {"attention_factor": 1.2}
        },
    ),
    "partial_rotary_factor": (
        "phi",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 300.0, "partial_rotary_factor": 0.25}},
        {"rope_parameters": None, "rope_theta": 300.0, "partial_rotary_factor": 0.25},
    ),
    "rotary_pct": (
        "gpt_neox",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 300.0, "partial_rotary_factor": 0.5}},
        {"rope_parameters": None, "rotary_emb_base": 300.0, "rotary_pct": 0.5},
    ),
    "original length beside the rotation": (
        "phi3",
        {"original_max_position_embeddings": 32}
        | {"rope_parameters": {"rope_type": "longrope", "short_factor": [1.5] * 8, "long_factor": [3.0] * 8}},
        {"rope_parameters": None, "rope_theta": 10000.0}
        | {"rope_scaling": {"type": "longrope", "short_factor": [1.5] * 8, "long_factor": [3.0] * 8}},
    ),
    "sliding_window_pattern": (
        "gemma3_text",
        _GEMMA3
        | {
            "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 400.0}}
            | {"sliding_attention": {"rope_type": "default", "rope_theta": 300.0}}
        },
        {"rope_parameters": None, "layer_types": None, "sliding_window_pattern": 2, "rope_theta": 400.0}
        | {"rope_local_base_freq": 300.0, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    ),
}


@pytest.mark.parametrize("name", OLD_SPELLINGS)
def test_spellings_of_transformers_4_mean_the_same(tmp_path, name):
    model_type, values, old = OLD_SPELLINGS[name]
    directory = _saved(tmp_path / "model", model_type, values, {})
    out = tmp_path / "out" / "model.onnx"

    def files() -> list[bytes]:
        export(directory, out, ExportOptions(**QUICK), force=True)
        return [out.read_bytes(), out.with_name("model.onnx.data").read_bytes()]

    expected = files()
    edit_config(directory, **old)

    assert "rope_parameters" not in json.loads((directory / "config.json").read_text())
    assert files() == expected


@pytest.mark.parametrize(
    ("model_type", "values", "on_top"),
    [
        ("gemma3_text", _GEMMA3, {"architectures": ["Gemma3TextModel"], "use_bidirectional_attention": True}),
        ("llama", {}, {"architectures": ["LlamaForSequenceClassification"]}),
        ("qwen2", {}, {"architectures": ["Qwen2ForTokenClassification"]}),
        ("mistral", {}, {"architectures": ["MistralBiModel"]}),
        ("qwen2", {}, {"is_causal": False}),
    ],
    ids=str,
)
def test_models_that_do_not_write_text_are_refused(tmp_path, model_type, values, on_top):
    assert model_type in VERIFIED
    directory = _saved(tmp_path / "model", model_type, values, on_top)

    with pytest.raises(InputError, match=r"^config\.json: (architectures is|.* is not supported for)"):
        export(directory, tmp_path / "out" / "model.onnx", ExportOptions())


def test_padding_row_that_transformers_does_not_load_is_refused(tmp_path):
    values = {"tie_word_embeddings": True, "num_key_value_heads": 4}
    directory = _saved(tmp_path / "model", "youtu", values, {"pad_token_id": 0})

    with pytest.raises(InputError, match="pad_token_id=0 is not supported for a youtu with tied embeddings"):
        export(directory, tmp_path / "out" / "model.onnx", ExportOptions())


@pytest.mark.parametrize("names", [None, [], ["LlamaModel"], ["MyLlamaForCausalLM"], ["Other", "LlamaForCausalLM"]])
def test_other_names_of_decoders_are_exported(tmp_path, names):
    directory = _saved(tmp_path / "model", "llama", {"tie_word_embeddings": True}, {"architectures": names})

    assert export(directory, tmp_path / "out" / "model.onnx", ExportOptions(**QUICK)).verified


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"layer_types": ["chunked_attention", "full_attention"]}, "layer_types has 'chunked_attention'"),
        ({"layer_types": _MIXED, "use_sliding_window": False}, "sliding_window must be 1 or more"),
        ({"sliding_window": 0, "use_sliding_window": True, "layer_types": _MIXED}, "sliding_window must be 1 or more"),
        ({"rope_parameters": {"rope_type": "axial", "rope_theta": 100.0}}, "rope_parameters.rope_type='axial' is not"),
    ],
    ids=str,
)
def test_windows_and_rotations_that_no_graph_has_are_refused(tmp_path, values, message):
    directory = _saved(tmp_path / "model", "qwen2", {}, values)

    with pytest.raises(InputError, match=message):
        export(directory, tmp_path / "out" / "model.onnx", ExportOptions())


def test_a_dynamic_rotation_of_a_type_that_no_test_compares_is_refused(tmp_path):
    on_top = {"rope_parameters": None, "rope_scaling": {"type": "dynamic", "factor": 2.0}}
    directory = _saved(tmp_path / "model", "diffllama", {}, on_top)

    with pytest.raises(
        InputError, match=r"rope_scaling of type 'dynamic' cannot be exported for diffllama; leave it out"
    ):
        export(directory, tmp_path / "out" / "model.onnx", ExportOptions())


def test_uniform_window_of_heads_that_cannot_have_one_is_refused(tmp_path):
    directory = _saved(tmp_path / "model", "mistral", {"head_dim": 20, "sliding_window": 16}, {})

    with pytest.raises(InputError, match="sliding_window=16 is not supported for heads of this size"):
        export(directory, tmp_path / "out" / "model.onnx", ExportOptions())


def test_window_that_config_json_leaves_out_is_that_of_the_class(tmp_path):
    directory = _saved(tmp_path / "model", "gemma2", {"head_dim": 16}, {"sliding_window": None, "layer_types": None})
    out = tmp_path / "out" / "model.onnx"

    export(directory, out, ExportOptions(**QUICK, fuse="none"))

    nodes = [node for node in ir.load(out).graph if node.op_type == "GroupQueryAttention"]
    windows = [
        node.attributes["local_window_size"].as_int() for node in nodes if "local_window_size" in node.attributes
    ]
    assert len(nodes) == 2
    assert windows == [4096]  # in the first layer alone
