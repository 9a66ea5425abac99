"""Files for text and generation that transformers, the runner or onnxruntime-genai read otherwise: notes, refusals."""

import json

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers

from dualbinary import InputError
from runtime_ext.decoder import Decoder
from tests.support.sessions import logits
from tests.support.tiny_tokenizers import write_tokenizer


def test_what_generation_config_asks_for_and_no_runner_does_is_said(tiny_model, fitted):
    directory = tiny_model("llama")
    values = {"repetition_penalty": 1.3, "min_new_tokens": 4, "num_beams": 1, "temperature": 0.5}
    (directory / "generation_config.json").write_text(json.dumps(values))

    result, _ = fitted(directory)

    (note,) = (line for line in result.warnings if "generation_config.json" in line)
    assert "sets min_new_tokens, repetition_penalty, which" in note


@pytest.mark.parametrize("ids", ["x", [2, "3"], {"a": 1}, True])
def test_token_ids_that_are_no_numbers_are_refused(tiny_model, fitted, ids):
    directory = tiny_model("llama")
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))

    with pytest.raises(InputError, match="eos_token_id must be a token id or a list of them"):
        fitted(directory)


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_an_empty_list_of_ends_is_none(tiny_model, fitted, file):
    directory = tiny_model("llama")
    (directory / "generation_config.json").unlink()
    values = json.loads((directory / file).read_text()) if file == "config.json" else {}
    (directory / file).write_text(json.dumps(values | {"eos_token_id": [], "pad_token_id": None}))

    _, out = fitted(directory)

    model = json.loads((out.parent / "genai_config.json").read_text())["model"]
    assert not {"eos_token_id", "pad_token_id"} & model.keys()
    assert Decoder.load(out).config.eos_token_ids == ()


@pytest.mark.parametrize("name", ["chat_template.jinja", "additional_chat_templates/default.jinja"])
def test_a_chat_template_of_another_encoding_is_refused_before_work(tiny_model, fitted, monkeypatch, name):
    directory = tiny_model("llama")
    (directory / name).parent.mkdir(exist_ok=True)
    (directory / name).write_bytes("{{ 'é' }}".encode("latin-1"))
    monkeypatch.setattr("exporter.pipeline.write_data_file", lambda *_: pytest.fail("weights were computed"))

    with pytest.raises(InputError, match=rf"{name}: not UTF-8 text \(.*\); convert it first"):
        fitted(directory)


def test_rules_that_transformers_has_in_place_of_the_file_are_said(tiny_model, fitted):
    directory = tiny_model("llama")
    tokenizer = write_tokenizer(directory)
    assert not [line for line in fitted(directory)[0].warnings if "encodes text otherwise" in line]

    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = json.loads((directory / "tokenizer_config.json").read_text())
    (directory / "tokenizer_config.json").write_text(json.dumps(settings | {"tokenizer_class": "Qwen2Tokenizer"}))

    (note,) = (line for line in fitted(directory)[0].warnings if "encodes text otherwise" in line)
    assert "transformers' Qwen2Tokenizer" in note
    assert "backend_tokenizer.save('tokenizer.json')" in note


def test_tokenizer_that_cannot_encode_a_letter_does_not_stop_an_export(tiny_model, fitted):
    directory = tiny_model("llama")
    Tokenizer(models.WordLevel({"zzz": 5}, unk_token="<unk>")).save(str(directory / "tokenizer.json"))

    assert fitted(directory)[1].is_file()


@pytest.mark.parametrize(("name", "shared"), [("llama", True), ("llama_head20", False), ("gpt_oss", False)])
def test_only_caches_that_are_written_in_place_are_shared(kept, name, shared):
    _, out = kept(name)

    config = json.loads((out.parent / "genai_config.json").read_text())
    assert config["search"]["past_present_share_buffer"] is shared
    decoder = Decoder.load(out)
    decoder.start(16)
    assert np.isfinite(decoder.step([5, 6, 7])).all()
    assert np.isfinite(decoder.step([8])).all()


def test_heads_of_two_sizes_are_said(kept):
    result, _ = kept("deepseek_v3")

    assert any("onnxruntime-genai takes one head size for keys and values" in line for line in result.warnings)
    result, _ = kept("llama")
    assert not any("head size" in line for line in result.warnings)


@pytest.mark.parametrize("bits", [2, 3, 4, 8, 16, 32])
@pytest.mark.parametrize("token", [-1, -100, 256])
def test_ids_outside_the_table_are_refused_by_the_session(kept, bits, token):
    _, out = kept("llama", embedding_bits=bits)

    with pytest.raises(Exception, match=r"out of|bounds"):
        logits(out, np.array([[5, token, 7]], np.int64))


def test_decoder_of_a_gpt_neox_without_its_prefix_exports(tiny_model, fitted):
    from safetensors.torch import load_file, save_file

    directory = tiny_model("gpt_neox")
    file = directory / "model.safetensors"
    tensors = {name.removeprefix("gpt_neox."): tensor for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})

    assert fitted(directory)[0].verified


def test_check_stays_within_the_length_that_a_file_is_made_for(kept, library):
    from exporter.verify import check

    result, out = kept("llama", max_length=12)

    outcome = check(result, out, library)

    assert outcome.passed, outcome
