"""Gemma 4: sizes by layer, layers without keys of their own, and a table of tokens for the inputs of every layer."""

import numpy as np
import onnx_ir as ir
import pytest
from safetensors.torch import load_file, save_file

from dualbinary import InputError
from exporter.verify import check
from runtime_ext.decoder import Decoder, DecoderConfig
from tests.support.sessions import logits, open_session
from tests.support.tiny_models import edit_config

IDS = np.arange(3, 40)[None] * 7 % 256


def attention_of(out):
    return [node for node in ir.load(out).graph if node.op_type == "GroupQueryAttention"]


def test_layers_without_keys_read_the_cache_of_the_last_one_that_has_some(kept):
    _, out = kept("gemma4_text")

    nodes = attention_of(out)
    assert [node.attributes["kv_num_heads"].as_int() for node in nodes] == [2, 1, 2, 1]
    assert [len(node.outputs) for node in nodes] == [3, 3, 1, 1]
    for node, source in zip(nodes[2:], nodes[:2], strict=True):
        assert list(node.inputs[3:5]) == list(source.outputs[1:])
    inputs = {value.name: tuple(value.shape or ()) for value in ir.load(out).graph.inputs}
    assert [inputs[f"past_key_values.{n}.key"][1::2] for n in (0, 1)] == [(2, 32), (1, 64)]
    assert "past_key_values.2.key" not in inputs


def test_a_shared_buffer_gives_what_growing_caches_give(kept):
    _, out = kept("gemma4_text")
    decoder = Decoder(open_session(str(out)), DecoderConfig.read(out.parent))
    assert decoder.config.share_buffer

    tokens = IDS[0].tolist()
    decoder.start(2 * len(tokens))  # a buffer that is longer than the text
    decoder.step(tokens[:20])
    found = [decoder.step([token]) for token in tokens[20:]][-1]

    expected = logits(out, IDS)
    assert np.abs(np.asarray(found).reshape(-1) - expected[0, -1]).max() < 1e-3 * np.abs(expected).max()


def test_sizes_may_be_stated_as_files_before_transformers_5_state_them(tiny_model, fitted):
    model_dir = tiny_model("gemma4_text")
    _, out = fitted(model_dir)
    expected = logits(out, IDS)
    edit_config(model_dir, per_layer_config=None, global_head_dim=64, num_global_key_value_heads=1)

    _, out = fitted(model_dir)

    assert np.array_equal(logits(out, IDS), expected)


@pytest.mark.parametrize(
    "layers", [{"1": {"head_dim": 64}}, {"1": {"head_dim": 64}, "3": {"head_dim": 64, "hidden_activation": "relu"}}]
)
def test_layers_of_one_type_that_differ_are_refused(tiny_model, fitted, layers):
    model_dir = tiny_model("gemma4_text")
    edit_config(model_dir, per_layer_config=layers, num_kv_shared_layers=0)

    with pytest.raises(InputError, match=r"^config\.json: per_layer_config=.* not supported for gemma4_text; only"):
        fitted(model_dir)


def test_weights_that_transformers_leaves_unread_change_nothing(tiny_model, fitted, library):
    model_dir = tiny_model("gemma4_text")
    tensors = load_file(model_dir / "model.safetensors")
    for kind in ("k_proj", "k_norm"):
        own = tensors[f"model.layers.1.self_attn.{kind}.weight"]
        tensors[f"model.layers.3.self_attn.{kind}.weight"] = own + 1
    save_file(tensors, model_dir / "model.safetensors", metadata={"format": "pt"})

    result, out = fitted(model_dir)

    assert check(result, out, library).passed


@pytest.mark.parametrize(
    ("options", "kinds"), [({}, {8}), ({"embedding_bits": 2}, {2}), ({"embedding_bits": 16}, {16})]
)
def test_the_table_of_layer_inputs_is_stored_as_the_embedding_is(kept, options, kinds):
    result, out = kept("gemma4_text", **options)

    rows = {row["parameter"]: row for row in result.report["tables"]}
    assert set(rows) == {"model.embed_tokens.weight", "model.embed_tokens_per_layer.weight"}
    assert {row["bits"] for row in rows.values()} == kinds
    assert result.report["totals"]["table_bytes"] == sum(row["bytes"] for row in rows.values())
    names = {value.name for value in ir.load(out).graph.initializers.values()}
    assert "model.embed_tokens_per_layer.weight" not in names


def test_routers_of_experts_stay_in_full_precision(kept):
    result, _ = kept("gemma4_text_experts")

    modules = [linear.module for node in result.graph.nodes for linear in node.linears]
    assert not any("router" in module for module in modules)
    assert sum(".experts." in module for module in modules) == 2 * 4 * 3
