"""The token that a tokenizer puts before a text, in the windows of a run and in its record."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import processors

from calib.__main__ import main
from calib.config import CalibConfig, DataConfig
from calib.data.collect import collect, first_windows
from calib.data.windows import load_tokenizer, pack_windows, start_token
from dualbinary import InputError
from dualbinary.evaluation.texts import NamedText
from runtime_ext.evaluation.scoring import text_windows
from runtime_ext.text import TextCodec
from tests.support.tiny_models import VOCABULARY, make_model
from tests.support.tiny_tokenizers import write_tokenizer

BOS = 1
SMALL = ["--stages", "init", "--init-windows", "3", "--init-method", "activation", "--length", "16", "--quiet"]
SMALL += ["--planes", "2"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = make_model("llama", tmp_path_factory.mktemp("models") / "llama")
    write_tokenizer(directory)
    return directory


def decoded(model, windows):
    return load_tokenizer(model).batch_decode(windows)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("every window has one token less of this " * 10)
    return path


def test_a_window_has_one_token_less_of_text():
    documents = [np.arange(10, dtype=np.int32)]
    found = pack_windows(documents, 4, None, 30, 0, start_id=77)
    assert sorted(found.tolist()) == [[77, 0, 1, 2], [77, 3, 4, 5], [77, 6, 7, 8]]
    assert torch.equal(found[:, 1:], pack_windows(documents, 3, None, 30, 0))


def test_it_is_what_a_tokenizer_puts_first(tmp_path):
    for place, single in {"first": "<s> $A", "none": "$A", "behind": "$A <s>"}.items():
        (tmp_path / place).mkdir()
        tokenizer = write_tokenizer(tmp_path / place)
        tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("<s>", BOS)])
        tokenizer.save(str(tmp_path / place / "tokenizer.json"))
        found = start_token(load_tokenizer(tmp_path / place), VOCABULARY)
        assert found == TextCodec(tmp_path / place).start_token == (BOS if place == "first" else None)
    assert start_token(load_tokenizer(tmp_path / "first"), BOS) is None  # which the model does not know


def test_windows_to_measure_on_begin_with_it(model, tmp_path):
    (tmp_path / "a.txt").write_text("abcdefgh")
    files = (str(tmp_path / "a.txt"),)
    found = first_windows(model, files, 2, 4, VOCABULARY)
    assert decoded(model, found) == ["<s>abc", "<s>def"]
    assert (text_windows(TextCodec(model), NamedText("a", files), 2, 4) == found.numpy()).all()
    for read in (
        lambda: first_windows(model, files, 3, 4, VOCABULARY),
        lambda: text_windows(TextCodec(model), NamedText("a", files), 3, 4),
    ):
        with pytest.raises(InputError, match="has 8 tokens, expected 3 windows of 3"):
            read()


def test_text_is_collected_with_it_where_that_is_asked_for(model, tmp_path):
    (tmp_path / "a.txt").write_text("a" * 30)
    found, origin = collect(
        DataConfig(text=(str(tmp_path / "a.txt"),), length=8, start_token=True), model, 100, VOCABULARY, 3, torch.empty
    )
    assert decoded(model, found) == ["<s>" + "a" * 7] * 4
    assert origin["files"][0]["tokens"] == 30


def run(model, out, *options):
    """The windows of a run, and the configuration in its record."""
    assert main([str(model), str(out), *SMALL, "--keep-work", *map(str, options)]) == 0
    windows = load_file(out.with_name(f"{out.name}.work") / "windows.safetensors")["tokens"]
    return windows, json.loads((out / "calibration.json").read_text())["config"]


def test_windows_of_text_and_of_the_model_begin_with_it(model, text, tmp_path):
    for place, source in enumerate([("--text", text), ("--generate", "4")]):
        windows, config = run(model, tmp_path / str(place), *source)
        assert windows.shape[1] == 16
        assert (windows[:, 0] == BOS).all()
        assert (windows[:, 1:] != BOS).all()
        assert (config["version"], config["data"]["start_token"]) == (4, True)


def test_without_it_and_repeated_from_an_older_record_windows_begin_anywhere(model, text, tmp_path):
    windows, config = run(model, tmp_path / "first", "--text", text, "--no-start-token")
    assert (windows != BOS).all()
    assert config["version"] == 2
    assert "start_token" not in config["data"]
    record = tmp_path / "first" / "calibration.json"
    again, _ = run(model, tmp_path / "second", "--config", record)
    assert (again == windows).all()
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "second")]
    assert weights[0] == weights[1]
    assert CalibConfig.read(record).data.start_token is False


def test_a_tokenizer_that_puts_nothing_first_changes_nothing(text, tmp_path, capsys):
    directory = make_model("llama", tmp_path / "llama")
    write_tokenizer(directory, bos=False)
    windows, config = run(directory, tmp_path / "out", "--text", text)
    assert (windows != BOS).all()
    assert config["version"] == 2
    assert main([str(directory), str(tmp_path / "no"), *SMALL, "--text", str(text), "--start-token"]) == 2
    assert f"error: --start-token: the tokenizer of {directory} puts no token before a text" in capsys.readouterr().err
    assert not (tmp_path / "no.work").exists()
