"""The language model inside a directory of a model that takes pictures or sound too."""

import json
from typing import Any

import pytest
import transformers
from safetensors.torch import load_file, save_file

from dualbinary import InputError
from dualbinary.checkpoint.text_part import text_config
from exporter.options import ExportOptions
from exporter.pipeline import export
from exporter.verify import check
from tests.support.exact_models import MOVED, SAME, exported_logits, relative_error, torch_logits
from tests.support.quick_fit import QUICK
from tests.support.tiny_models import edit_config
from tests.support.wrapped_models import DECODERS, edit_text, rename_stored, wrapped_model

# What follows the head of these decoders is left out by the classes around them (transformers 5.23).
_PLAIN_HEADS = {"cohere2": {"logit_scale": 1.0}, "granite": {"logits_scaling": 1.0}}


@pytest.mark.parametrize("kind", DECODERS)
def test_a_text_alone_is_computed_as_by_the_whole_model(tmp_path, kind):
    model, _ = wrapped_model(kind, tmp_path / "model", **_PLAIN_HEADS.get(DECODERS[kind], {}))

    found = exported_logits(tmp_path / "model", tmp_path / "out" / "model.onnx")

    assert relative_error(found, torch_logits(model)) < SAME


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("cohere2_vision", {"logit_scale": 0.25}),
        ("granite_speech", {"logits_scaling": 8.0}),
        ("gemma3", {"final_logit_softcapping": 1.0}),
    ],
)
def test_what_follows_the_head_is_that_of_the_decoder(tmp_path, kind, text):
    model, decoder = wrapped_model(kind, tmp_path / "model", **text)
    found = exported_logits(tmp_path / "model", tmp_path / "out" / "model.onnx")
    assert relative_error(found, torch_logits(decoder)) < SAME
    if kind != "granite_speech":  # whose class has the decoder's own inside
        assert relative_error(torch_logits(model), torch_logits(decoder)) > MOVED


@pytest.mark.parametrize(("kind", "check_tokens"), [("gemma3", None), ("qwen3_5", 64), ("smolvlm", 24)])
def test_the_check_compares_with_the_decoder(tmp_path, fitted, library, kind, check_tokens):
    wrapped_model(kind, tmp_path / "model")
    result, out = fitted(tmp_path / "model", logits="all")

    outcome = check(result, out, library, check_tokens)

    assert outcome.passed, outcome
    assert outcome.original is not None


def test_an_export_says_what_it_left_out_and_is_of_the_decoder(tmp_path, fitted):
    wrapped_model("gemma3", tmp_path / "model")
    edit_config(tmp_path / "model", eos_token_id=[1, 106])
    edit_text(tmp_path / "model", eos_token_id=None)
    (tmp_path / "model" / "generation_config.json").unlink()

    result, out = fitted(tmp_path / "model")

    beside = {name: json.loads((out.parent / name).read_text()) for name in ("config.json", "genai_config.json")}
    assert beside["config.json"]["model_type"] == "gemma3_text"
    assert not {"text_config", "vision_config"} & set(beside["config.json"])
    assert beside["config.json"]["eos_token_id"] == [1, 106]
    assert beside["genai_config.json"]["model"]["type"] == "gemma3_text"
    assert beside["genai_config.json"]["model"]["eos_token_id"] == [1, 106]
    assert any("the language model of a gemma3 alone" in line for line in result.warnings)
    assert result.verified


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("gemma3", {"language_model.model.": "model.language_model."}),
        ("qwen3_5", {"model.language_model.": "language_model.model.", "lm_head.": "language_model.lm_head."}),
    ],
)
def test_names_of_older_and_newer_files_mean_the_same(tmp_path, kind, names):
    wrapped_model(kind, tmp_path / "model")
    data = []
    for folder in ("one", "other"):
        export(tmp_path / "model", tmp_path / folder / "model.onnx", ExportOptions(**QUICK))
        data.append((tmp_path / folder / "model.onnx.data").read_bytes())
        rename_stored(tmp_path / "model", names)
    assert data[0] == data[1]


@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen2_5_vl"])
def test_a_flat_configuration_means_the_same(tmp_path, kind):
    """As these were published: one level of values, names without the part, positions of type mrope."""
    rope = {"rope_type": "default", "rope_theta": 500.0}
    model, _ = wrapped_model(kind, tmp_path / "model", rope_parameters=rope)
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    text = {key: value for key, value in config.pop("text_config").items() if key not in ("rope_parameters", "dtype")}
    scaling = {"rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]}, "rope_theta": 500.0}
    path.write_text(json.dumps(text | config | scaling))
    rename_stored(tmp_path / "model", {"model.language_model.": "model.", "model.visual.": "visual."})

    found = exported_logits(tmp_path / "model", tmp_path / "out" / "model.onnx")

    assert relative_error(found, torch_logits(model)) < SAME
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "qwen2"


@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_defaults_are_those_of_the_decoder_inside(kind):
    """They differ from those of the type that computes the same."""
    inside: Any = transformers.CONFIG_MAPPING[kind]().get_text_config()

    found = text_config({"model_type": kind, "text_config": {"model_type": f"{kind}_text"}}, ())

    assert found["rope_parameters"] == {"rope_theta": inside.rope_parameters["rope_theta"], "rope_type": "default"}
    assert found["rms_norm_eps"] == inside.rms_norm_eps


def test_values_that_the_text_part_leaves_out_are_those_of_its_class(tmp_path):
    model, _ = wrapped_model("gemma3", tmp_path / "model", layer_types=["sliding_attention"] * 2)
    rope = {"rope_parameters": None, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    edit_text(tmp_path / "model", layer_types=None, max_position_embeddings=None, tie_word_embeddings=None, **rope)
    edit_config(tmp_path / "model", tie_word_embeddings=None)

    found = exported_logits(tmp_path / "model", tmp_path / "out" / "model.onnx")

    assert relative_error(found, torch_logits(model)) < SAME
    genai = json.loads((tmp_path / "out" / "genai_config.json").read_text())
    assert genai["model"]["context_length"] == model.config.text_config.__class__().max_position_embeddings


def test_pictures_that_see_one_another_change_no_text(tmp_path):
    """Gemma 4's larger models say so in the configuration of their text part."""
    model, _ = wrapped_model("gemma4", tmp_path / "model", use_bidirectional_attention="vision")
    found = exported_logits(tmp_path / "model", tmp_path / "out" / "model.onnx")
    assert relative_error(found, torch_logits(model)) < SAME


@pytest.mark.parametrize(
    ("values", "text", "message"),
    [
        ({"model_type": "paligemma"}, {}, "The gemma3_text inside it can: give a directory of that alone"),
        ({}, {"model_type": "lamma"}, "transformers .* has no model_type 'lamma'|'lamma' is not one that"),
        ({}, {"num_hidden_layers": 10**6}, "num_hidden_layers must be 1 to"),
        ({"text_config": None}, {}, "model_type 'gemma3' is built for"),
        ({"model_type": ["gemma3"]}, {}, "no model_type; not the configuration"),
    ],
    ids=str,
)
def test_what_holds_no_known_decoder_is_refused(tmp_path, values, text, message):
    wrapped_model("gemma3", tmp_path / "model")
    edit_text(tmp_path / "model", **text)
    edit_config(tmp_path / "model", **values)
    with pytest.raises(InputError, match=message):
        export(tmp_path / "model", tmp_path / "out" / "model.onnx", ExportOptions())


def test_a_tensor_that_is_there_under_two_names_is_refused(tmp_path):
    wrapped_model("gemma3", tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    tensors = load_file(path)
    norm = tensors["language_model.model.norm.weight"]
    save_file(tensors | {"model.language_model.norm.weight": norm + 1}, path, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"are both model\.norm\.weight of the language model; remove one"):
        export(tmp_path / "model", tmp_path / "out" / "model.onnx", ExportOptions())
