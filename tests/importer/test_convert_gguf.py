"""A model that came from a GGUF file goes back into the same tensors and the same metadata; one of ours comes back."""

import json
import shutil
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import transformers
from safetensors.numpy import save_file

from dualbinary import InputError
from dualbinary.files.json_objects import read_json_object
from dualbinary.onnx_files.relayout.convert import relayout
from exporter.__main__ import main as export
from importer.checkpoint import write_model
from importer.convert.__main__ import main
from importer.convert.checkpoint_source import open_checkpoint
from importer.convert.gguf.write import write_gguf
from importer.convert.onnx_source import open_onnx
from importer.planes import plane_weight
from importer.readers import open_model
from importer.readers.gguf.container import open_container
from tests.support.gguf_files import SENTENCEPIECE, Type, dequantized, write_tiny_model
from tests.support.quantized_checkpoints import quantize
from tests.support.tiny_models import make_model
from tests.support.tiny_tokenizers import write_tokenizer

SAME = ("llama", "llama of wide heads", "llama, linear", "llama 3", "qwen2", "qwen3", "qwen3, yarn", "gemma3")
NOT_OURS = {"general.name", "general.type", "general.file_type", "general.quantization_version"}
ALWAYS = (
    *("key_length", "value_length", "vocab_size", "dimension_count", "freq_base_swa", "freq_base"),
    *("add_bos_token", "add_eos_token", "eot_token_id"),
)


def _mixed(tensor):
    kinds = {"attn_q": Type.Q4_1, "attn_k": Type.Q5_0, "ffn_down": Type.Q5_1, "ffn_up": Type.Q4_0, "attn_v": Type.F16}
    return next((kind for part, kind in kinds.items() if part in tensor), Type.Q8_0)


def _there_and_back(tmp_path, name, keys: Mapping[str, Any] = MappingProxyType({})):
    """The containers of a tiny model's file, and of what its checkpoint is converted to."""
    write_tiny_model(tmp_path / "model.gguf", name, types=_mixed, keys=keys)
    write_model(open_model(tmp_path / "model.gguf"), tmp_path / "checkpoint")
    write_gguf(open_checkpoint(tmp_path / "checkpoint"), tmp_path / "back.gguf", progress=lambda weights: None)
    return open_container(tmp_path / "model.gguf"), open_container(tmp_path / "back.gguf")


def _assert_same_tensors(first, second):
    assert first.tensors.keys() == second.tensors.keys()
    for tensor, stored in first.tensors.items():
        other = second.tensors[tensor]
        assert (other.type.name, other.shape) == (stored.type.name, stored.shape), tensor
        if tensor == "rope_freqs.weight":  # computed anew, where a quotient of float32 was stored
            assert np.allclose(other.data.view("<f4"), stored.data.view("<f4"), rtol=2.0**-21, atol=0)
        else:
            assert np.array_equal(other.data, stored.data), tensor


@pytest.mark.parametrize("name", SAME)
def test_a_file_comes_back_as_it_was(name, tmp_path):
    first, second = _there_and_back(tmp_path, name)
    _assert_same_tensors(first, second)
    for key in first.metadata.keys() - NOT_OURS:
        assert np.array_equal(first.metadata[key], second.metadata[key]), key
    for key in second.metadata.keys() - first.metadata.keys() - NOT_OURS:
        assert key.endswith(ALWAYS), key


@pytest.mark.parametrize("split", ["smollm", "llama-bpe", "dbrx", "tekken", "qwen2", "qwen35", "gpt-4o"])
def test_the_way_in_which_text_is_split_comes_back(split, tmp_path):
    _, second = _there_and_back(tmp_path, "llama", {"tokenizer.ggml.pre": split})
    assert second.metadata["tokenizer.ggml.pre"] == split
    one, other = (open_model(tmp_path / f"{name}.gguf").files() for name in ("model", "back"))
    assert one["tokenizer.json"] == other["tokenizer.json"]


def test_pieces_with_scores_come_back(tmp_path):
    first, second = _there_and_back(tmp_path, "gemma3", SENTENCEPIECE | {"tokenizer.ggml.add_space_prefix": False})
    _assert_same_tensors(first, second)
    one, other = (open_model(tmp_path / f"{name}.gguf").files() for name in ("model", "back"))
    assert one["tokenizer.json"] == other["tokenizer.json"]
    assert second.metadata["tokenizer.ggml.model"] == "llama"
    kinds = first.metadata["tokenizer.ggml.token_type"], second.metadata["tokenizer.ggml.token_type"]
    assert np.array_equal(*kinds)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("granite", "model_type 'granite'; GGUF files are written of llama, qwen2, qwen3, gemma3_text; "),
        (
            "gemma3, listed",
            "layer_types = ['full_attention', 'sliding_attention'] of config.json: a GGUF file",
        ),
    ],
)
def test_what_a_file_cannot_say_is_one_sentence(name, message, tmp_path):
    with pytest.raises(InputError) as caught:
        _there_and_back(tmp_path, name)
    assert message in str(caught.value)
    assert not (tmp_path / "back.gguf").exists()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny qwen2 with biases, of mixed types."""
    path = tmp_path_factory.mktemp("qwen2")
    write_tiny_model(path / "model.gguf", "qwen2", types=_mixed)
    write_model(open_model(path / "model.gguf"), path / "checkpoint")
    return path / "checkpoint"


@pytest.fixture(scope="module")
def exported(checkpoint):
    """Its export."""
    out = checkpoint.parent / "onnx" / "model.onnx"
    assert export([str(checkpoint), str(out), "--quiet"]) == 0
    return out


@pytest.mark.parametrize("layout", ["plain", "avx2"])
def test_an_export_is_converted_like_its_checkpoint(layout, checkpoint, exported, tmp_path):
    source = exported
    if layout != "plain":
        source = tmp_path / layout / "model.onnx"
        relayout(exported, source, layout)
    write_gguf(open_onnx(source), tmp_path / "onnx.gguf", progress=lambda weights: None)
    write_gguf(open_checkpoint(checkpoint), tmp_path / "checkpoint.gguf", progress=lambda weights: None)
    first, second = open_model(tmp_path / "checkpoint.gguf"), open_model(tmp_path / "onnx.gguf")
    assert first.config == second.config
    assert first.weights.keys() == second.weights.keys()
    for module, weight in first.weights.items():
        one, other = (plane_weight(each, each.read(), module) for each in (weight, second.weights[module]))
        assert one.format == other.format, module
        assert np.array_equal(one.planes, other.planes), module
        assert np.array_equal(one.scales, other.scales), module
    assert first.tensors.keys() == second.tensors.keys()
    for name, tensor in first.tensors.items():
        assert np.array_equal(tensor.read(), second.tensors[name].read()), name


def test_uneven_levels_are_refused_or_dequantized(tmp_path, capsys):
    model = make_model("llama", tmp_path / "model")
    write_tokenizer(model)
    quantize(model, tmp_path / "checkpoint")
    for file in model.glob("tokenizer*"):
        shutil.copy(file, tmp_path / "checkpoint")
    words = [str(tmp_path / "checkpoint"), str(tmp_path / "out.gguf")]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "2 planes, G=" in error
    assert "its levels are not evenly spaced" in error
    assert main([*words, "--dequantize", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["types"].keys() <= {"F16", "F32"}
    opened, checkpoint = open_model(tmp_path / "out.gguf"), open_checkpoint(tmp_path / "checkpoint")
    for module, weight in checkpoint.weights.items():
        values = weight.read().dequantize()
        got = opened.tensors[f"{module}.weight"].read().astype(np.float64)
        assert np.all(np.abs(got - values) <= 2.0**-11 * np.abs(values)), module
    assert main(words) == 2
    assert "exists; --force replaces it" in capsys.readouterr().err
    assert main([*words, "--dequantize", "--force"]) == 0


def test_types_can_be_chosen(checkpoint, tmp_path, capsys):
    words = [str(checkpoint), str(tmp_path / "out.gguf")]
    assert main([*words, "--types", "Q8_0"]) == 2
    error = capsys.readouterr().err
    assert "fits none of Q8_0" in error
    assert "allow more types (--types)" in error
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pre_tokenizer": {"type": "Whitespace"}}, "splits text in a way that has no known name"),
        ({"normalizer": {"type": "Lowercase"}}, "normalizes text by Lowercase"),
        ({"model": {"type": "Unigram", "vocab": []}}, "a tokenizer of type 'Unigram'; expected BPE"),
        (None, "missing; a GGUF file holds its tokenizer"),
    ],
)
def test_tokenizers_that_a_file_cannot_say(change, message, checkpoint, tmp_path):
    directory = shutil.copytree(checkpoint, tmp_path / "copy")
    file = directory / "tokenizer.json"
    file.write_text(json.dumps(read_json_object(file) | (change or {})))
    if change is None:
        file.unlink()
    with pytest.raises(InputError) as caught:
        write_gguf(open_checkpoint(directory), tmp_path / "out.gguf", progress=lambda weights: None)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("out", "words", "message"),
    [
        ("model.bin", [], "expected a name that ends in .gguf, or a directory"),
        ("gptq", ["--dequantize"], "--types and --dequantize are of GGUF files"),
        (".", [], "exists and is not an empty directory"),
    ],
)
def test_wrong_words_are_one_sentence(out, words, message, checkpoint, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main([str(checkpoint), str(tmp_path / out), *words]) == 2
    assert message in capsys.readouterr().err


def test_a_plain_model_is_no_source(tmp_path, capsys):
    transformers.LlamaConfig().save_pretrained(tmp_path)
    save_file({"a.weight": np.zeros((2, 2), np.float32)}, tmp_path / "model.safetensors")
    assert main([str(tmp_path), str(tmp_path / "out.gguf")]) == 2
    assert "not quantized; `dualbinary quantize` trains a checkpoint" in capsys.readouterr().err


def test_numbers_of_the_file_are_those_of_the_checkpoint(checkpoint, tmp_path):
    write_gguf(open_checkpoint(checkpoint), tmp_path / "out.gguf", progress=lambda weights: None)
    opened, own = open_model(tmp_path / "out.gguf"), open_checkpoint(checkpoint)
    for module, weight in opened.weights.items():
        exact = own.weights[module].read().dequantize()
        got = dequantized(weight.read())
        assert np.allclose(got, exact, rtol=2.0**-22, atol=2.0**-22), module
