"""The decoder against plain runs of the same ONNX file without any cache."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from dualbinary import InputError
from runtime_ext import decoder as decoder_module
from runtime_ext.decoder import Decoder
from tests.support import tiny_sessions as tiny
from tests.support.sessions import logits

PROMPT = [72, 101, 108, 108, 111, 44, 32, 119, 111, 114, 108, 100]
VOCABULARY = tiny.BYTES + len(tiny.SPECIAL_TOKENS)
# Two ways to the same float32 logits differ by rounding alone: sums of at most 96 terms in 2 layers of 5 products each
# lose about 96 * 10 * 2^-24 = 6e-5 of the largest magnitude; float16 has 2^-11 steps in a stream of 4 residual sums.
TOLERANCE = {"f32": 1e-4, "f16": 1e-2}


def load(path, **options):
    """Without the library: the tiny model has no operator of ours."""
    return Decoder.load(path, library=False, **options)


def logits_without_cache(path, tokens):
    return logits(path, np.array([tokens]), library=False)[0, -1].astype(np.float32)


def assert_close(actual, expected, dtype):
    assert np.abs(actual - expected).max() <= TOLERANCE[dtype] * np.abs(expected).max()


@pytest.mark.parametrize("dtype", ["f32", "f16"])
@pytest.mark.parametrize("share_buffer", [True, False])
def test_steps_through_the_cache_equal_runs_without_one(tiny_weights, tmp_path, dtype, share_buffer):
    path = tiny.make_model(tiny_weights, tmp_path, dtype, share_buffer)
    decoder = load(path)
    assert decoder.config.share_buffer is share_buffer
    decoder.start(len(PROMPT))
    assert_close(decoder.step(PROMPT[:7]), logits_without_cache(path, PROMPT[:7]), dtype)
    for end in range(8, len(PROMPT) + 1):
        assert_close(decoder.step(PROMPT[end - 1 : end]), logits_without_cache(path, PROMPT[:end]), dtype)


@pytest.mark.parametrize("share_buffer", [True, False])
def test_prompt_in_pieces_equals_prompt_at_once(tiny_weights, tmp_path, monkeypatch, share_buffer):
    path = tiny.make_model(tiny_weights, tmp_path, share_buffer=share_buffer)
    monkeypatch.setattr(decoder_module, "PROMPT_CHUNK", 5)
    decoder = load(path)
    decoder.start(len(PROMPT))
    assert_close(decoder.step(PROMPT), logits_without_cache(path, PROMPT), "f32")


def test_a_new_sequence_forgets_the_old_one(tiny_model):
    decoder = load(tiny_model)
    decoder.start(20)
    decoder.step(PROMPT)
    decoder.step([1, 2, 3])
    decoder.start(len(PROMPT))
    assert_close(decoder.step(PROMPT), logits_without_cache(tiny_model, PROMPT), "f32")


@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_static_steps_give_the_logits_of_others(tiny_weights, tmp_path, dtype):
    """The mask has the length of the cache and holds zeros after the tokens; nothing else may depend on it."""
    path = tiny.make_model(tiny_weights, tmp_path, dtype)
    usual, static = load(path), load(path, static_steps=True)
    for decoder in (usual, static):
        decoder.start(3 * len(PROMPT))
    assert np.array_equal(static.step(PROMPT[:7]), usual.step(PROMPT[:7]))
    for token in [*PROMPT[7:], *PROMPT]:
        assert_close(static.step([token]), usual.step([token]), dtype)


def test_static_steps_begin_with_the_first_token(tiny_model):
    decoder = load(tiny_model, static_steps=True)
    decoder.start(8)
    for end in range(1, 5):
        assert_close(decoder.step(PROMPT[end - 1 : end]), logits_without_cache(tiny_model, PROMPT[:end]), "f32")


@pytest.mark.parametrize("capacity", [20, 24])
def test_static_steps_of_a_new_sequence_forget_the_old_one(tiny_model, capacity):
    decoder = load(tiny_model, static_steps=True)
    decoder.start(20)
    decoder.step(PROMPT)
    for token in (1, 2, 3):
        decoder.step([token])
    decoder.start(capacity)  # of the same size in the same buffers
    decoder.step(PROMPT[:-1])
    assert_close(decoder.step(PROMPT[-1:]), logits_without_cache(tiny_model, PROMPT), "f32")


def test_captured_graphs_of_one_session_have_ids_of_their_own(tiny_model, monkeypatch):
    made, make = [], decoder_module.StaticStep
    monkeypatch.setattr(decoder_module, "StaticStep", lambda *given: made.append(make(*given)) or made[-1])
    first = load(tiny_model, static_steps=True)
    second = Decoder(first.session, first.config, static_steps=True)
    for decoder, capacity in [(first, 20), (second, 20), (first, 20), (first, 30)]:
        decoder.start(capacity)
    assert len(made) == len({step.graph_id for step in made}) == 3  # the same buffers keep their graph


def test_static_steps_need_a_shared_cache(tiny_weights, tmp_path):
    path = tiny.make_model(tiny_weights, tmp_path, share_buffer=False)
    with pytest.raises(InputError, match=r"model\.onnx: .*cuda_graph.* only with a shared cache"):
        load(path, static_steps=True)


def test_cache_size_is_what_the_buffers_take(tiny_model):
    # 2 layers of key and value, 2 heads of 16 in float32
    assert load(tiny_model).cache_bytes_per_token == 2 * 2 * 2 * 16 * 4


def test_more_tokens_than_the_context_are_refused(tiny_model):
    decoder = load(tiny_model)
    with pytest.raises(InputError, match=f"context of {tiny.CONTEXT_LENGTH}"):
        decoder.start(tiny.CONTEXT_LENGTH + 1)


def test_more_tokens_than_started_for_are_refused(tiny_model):
    decoder = load(tiny_model)
    decoder.start(3)
    with pytest.raises(InputError, match="started for 3"):
        decoder.step([1, 2, 3, 4])


@pytest.mark.parametrize("token", [-1, VOCABULARY, 1 << 40])
def test_an_id_that_the_table_lacks_is_refused_before_anything_runs(tiny_model, token):
    decoder = load(tiny_model)
    assert decoder.vocabulary == VOCABULARY
    decoder.start(4)
    with pytest.raises(InputError, match=f"token id {token}: expected 0 to {VOCABULARY - 1}.*; use the tokenizer"):
        decoder.step([1, token])
    assert decoder.length == 0
    assert decoder.step([VOCABULARY - 1]).shape == (VOCABULARY,)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"out\.onnx: no such file"):
        load(tmp_path / "out.onnx")


def test_a_file_that_is_not_onnx_is_refused(tmp_path):
    path = tmp_path / "out.onnx"
    path.write_text("hello", encoding="utf-8")
    with pytest.raises(InputError, match=r"out\.onnx: it is cut off, damaged, or no ONNX file; copy it again"):
        load(path)


def test_missing_external_data_is_refused(tiny_copy):
    (tiny_copy.parent / "model.onnx.data").unlink()
    with pytest.raises(InputError, match=r"its data file .*model\.onnx\.data is missing; copy both"):
        load(tiny_copy)


def save_identity(path, inputs, outputs):
    """A model that copies its first input to each output."""
    values = [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()]
    results = [helper.make_tensor_value_info(name, values[0].type.tensor_type.elem_type, None) for name in outputs]
    nodes = [helper.make_node("Identity", [values[0].name], [name]) for name in outputs]
    graph = helper.make_graph(nodes, "g", values, results)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)


IDS = (TensorProto.INT64, [1, "s"])
CACHE = (TensorProto.FLOAT, [1, 2, "t", 16])


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ({"x": IDS}, ["logits"], "no input attention_mask"),
        ({"input_ids": IDS, "attention_mask": IDS}, ["y"], "no output logits"),
        ({"input_ids": IDS, "attention_mask": IDS, "pixels": IDS}, ["logits"], "asks for the input pixels"),
        (
            {"input_ids": IDS, "attention_mask": IDS, "past_key_values.0.key": CACHE},
            ["logits"],
            r"no output present\.0\.key",
        ),
        (
            {"input_ids": IDS, "attention_mask": IDS, "past_key_values.0.key": (TensorProto.INT64, [1, 2, "t", 16])},
            ["logits", "present.0.key"],
            r"past_key_values\.0\.key: expected a cache of",
        ),
        (
            {"input_ids": IDS, "attention_mask": IDS, "past_key_values.0.key": (TensorProto.FLOAT, [1, "h", "t", 16])},
            ["logits", "present.0.key"],
            r"past_key_values\.0\.key: expected shape",
        ),
    ],
)
def test_a_model_that_is_no_decoder_is_refused_by_what_it_lacks(tmp_path, inputs, outputs, message):
    path = tmp_path / "out.onnx"
    save_identity(path, inputs, outputs)
    with pytest.raises(InputError, match=message):
        load(path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("genai_config.json", "{", "not valid JSON"),
        ("genai_config.json", "[]", "expected a JSON object"),
        ("genai_config.json", '{"model": 3}', "model: expected an object"),
        ("genai_config.json", '{"model": {"context_length": "x"}}', "invalid literal"),
        ("genai_config.json", '{"model": {"context_length": 0}}', "expected 1 to"),
        ("generation_config.json", '{"eos_token_id": {}}', "eos_token_id|int"),
    ],
)
def test_damaged_configuration_is_named(tiny_copy, name, text, message):
    (tiny_copy.parent / name).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        load(tiny_copy)


def test_end_ids_come_from_generation_config_first(tiny_copy):
    tiny.write_json(tiny_copy.parent / "generation_config.json", {"eos_token_id": [7, 9]})
    assert load(tiny_copy).config.eos_token_ids == (7, 9)
