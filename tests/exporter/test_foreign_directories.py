"""Directories that transformers reads and other tools wrote are exported as transformers reads them, or refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from dualbinary import InputError
from dualbinary.architectures.refused import REFUSED
from exporter.verify import check
from tests.support.tiny_models import edit_config

WEIGHTS = "model.safetensors"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def rewrite_weights(model_dir, change):
    tensors = change(load_file(model_dir / WEIGHTS))
    save_file({name: t.contiguous() for name, t in tensors.items()}, model_dir / WEIGHTS, metadata={"format": "pt"})


def without_prefix(tensors):
    return {name.removeprefix("model."): tensor for name, tensor in tensors.items()}


BUFFERS = {
    "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(16),
    "model.layers.0.attn.bias": torch.ones(1, 1, 8, 8, dtype=torch.bool),
    "model.layers.0.attention.masked_bias": torch.tensor(-1e9),
    "model.position_ids": torch.arange(8),
}


def test_stored_buffers_that_a_model_computes_are_left_out(tiny_model, fitted, library):
    model_dir = tiny_model("llama")
    rewrite_weights(model_dir, lambda tensors: tensors | BUFFERS)

    result, out = fitted(model_dir)

    assert check(result, out, library).passed


def test_a_stray_bias_that_is_called_like_a_mask_is_refused(tiny_model, fitted):
    model_dir = tiny_model("llama")
    rewrite_weights(model_dir, lambda tensors: tensors | {"model.layers.0.attn.bias": torch.ones(8)})

    with pytest.raises(InputError, match=r"model\.layers\.0\.attn\.bias has no place in the graph of a llama"):
        fitted(model_dir)


def write_shards(model_dir, first, second, weight_map):
    (model_dir / WEIGHTS).unlink()
    for file, tensors in zip(SHARDS, (first, second), strict=True):
        save_file(tensors, model_dir / file, metadata={"format": "pt"})
    (model_dir / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


@pytest.mark.parametrize("name", ["llama_tied", "opt"])
def test_weights_of_the_decoder_alone_are_those_of_the_tied_model(tiny_model, fitted, library, name):
    model_dir = tiny_model(name)
    rewrite_weights(model_dir, without_prefix)

    result, out = fitted(model_dir)

    assert check(result, out, library).passed


def test_weights_of_the_decoder_alone_are_refused_where_the_head_is_not_tied(tiny_model, fitted):
    model_dir = tiny_model("llama")
    rewrite_weights(
        model_dir, lambda tensors: {n: t for n, t in without_prefix(tensors).items() if n != "lm_head.weight"}
    )

    with pytest.raises(InputError, match=r"no tensor for lm_head\.weight"):
        fitted(model_dir)


def test_tied_head_of_gpt_neox_is_the_embedding(tiny_model, fitted, library):
    model_dir = tiny_model("gpt_neox")
    rewrite_weights(model_dir, lambda tensors: {n: t for n, t in tensors.items() if n != "embed_out.weight"})
    edit_config(model_dir, tie_word_embeddings=True)

    result, out = fitted(model_dir)

    assert len(result.graph.tables) == 1
    assert check(result, out, library).passed


@pytest.mark.parametrize("name", ["bloom", "gpt_neox", "codegen"])
def test_key_value_heads_of_a_type_that_has_none_mean_nothing(tiny_model, fitted, library, name):
    model_dir = tiny_model(name)
    edit_config(model_dir, num_key_value_heads=2, n_kv_heads=1)

    result, out = fitted(model_dir)

    assert check(result, out, library).passed


def test_type_without_a_table_does_not_see_what_transformers_does_not_read(tiny_model, fitted, monkeypatch):
    monkeypatch.setattr("exporter.graph.architectures.configuration.built_values", lambda model_type, read: None)
    model_dir = tiny_model("bloom")
    edit_config(model_dir, num_key_value_heads=2)

    fitted(model_dir)


def test_stored_dtype_may_be_automatic(tiny_model, fitted):
    model_dir = tiny_model("llama")
    edit_config(model_dir, dtype=None, torch_dtype="auto")

    fitted(model_dir)


def test_fused_tensor_of_another_shape_is_named_with_both_shapes(tiny_model, fitted):
    model_dir = tiny_model("gpt_neox")
    name = "gpt_neox.layers.0.attention.query_key_value.weight"
    rewrite_weights(model_dir, lambda tensors: {**tensors, name: tensors[name][:-3]})

    with pytest.raises(
        InputError, match=rf"{name}: config.json asks for shape \[384, 128\], the file has \[381, 128\]"
    ):
        fitted(model_dir)


def test_old_name_of_a_rotation_is_refused_with_the_new_one(tiny_model, fitted):
    model_dir = tiny_model("phi3")
    rope = {"type": "su", "short_factor": [1.0] * 16, "long_factor": [2.0] * 16}
    edit_config(model_dir, rope_parameters=None, rope_theta=1e4, rope_scaling=rope, original_max_position_embeddings=64)

    with pytest.raises(InputError, match=r"refuses it: .*; write 'longrope' as the type of rope_scaling"):
        fitted(model_dir)


def test_tensor_that_two_shards_hold_alike_is_taken_once(tiny_model, fitted, library):
    model_dir = tiny_model("llama")
    tensors = load_file(model_dir / WEIGHTS)
    names = sorted(tensors)
    first, second = ({name: tensors[name] for name in part} for part in (names[:9], names[9:]))
    weight_map = dict.fromkeys(first, SHARDS[0]) | dict.fromkeys(second, SHARDS[1])
    write_shards(model_dir, first, second | {names[0]: tensors[names[0]]}, weight_map)

    result, out = fitted(model_dir)

    assert check(result, out, library).passed


def test_tensors_of_one_name_that_differ_are_refused(tiny_model, fitted):
    model_dir = tiny_model("llama")
    tensors = load_file(model_dir / WEIGHTS)
    name = "model.norm.weight"
    write_shards(model_dir, tensors, {name: tensors[name] + 1}, dict.fromkeys(tensors, SHARDS[0]) | {name: SHARDS[1]})

    with pytest.raises(InputError, match=f"{SHARDS[0]} and {SHARDS[1]} hold different tensors called {name}"):
        fitted(model_dir)


def test_weights_beyond_float16_can_have_float32_scales(tiny_model, fitted, library):
    model_dir = tiny_model("llama")
    name = "model.layers.0.mlp.up_proj.weight"
    rewrite_weights(model_dir, lambda tensors: {**tensors, name: tensors[name] * 1e7})

    with pytest.raises(InputError, match=r"use float32 scales \(--scale-bits 32 of an export\)"):
        fitted(model_dir)
    result, out = fitted(model_dir, scale_bits=32)

    assert check(result, out, library).passed


@pytest.mark.parametrize("model_type", REFUSED)
def test_types_that_the_builder_gets_wrong_are_refused_by_name(tiny_model, fitted, model_type):
    model_dir = tiny_model("llama")
    edit_config(model_dir, model_type=model_type)

    with pytest.raises(
        InputError, match=f"model_type '{model_type}' cannot be exported: the graph builder gets it wrong"
    ):
        fitted(model_dir)


def test_type_that_transformers_lacks_is_refused(tiny_model, fitted):
    model_dir = tiny_model("llama")
    edit_config(model_dir, model_type="internlm2")

    with pytest.raises(InputError, match=r"transformers .* has no model_type 'internlm2'"):
        fitted(model_dir)
