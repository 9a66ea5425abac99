"""Calibration of the language model inside a model that takes pictures or sound too."""

import json

import pytest
import torch
from safetensors.torch import load_file

from calib.__main__ import main
from tests.support.tiny_tokenizers import write_tokenizer
from tests.support.wrapped_models import wrapped_model

RUN = ["--stages", "init", "--planes", "2", "--init-windows", "2", "--init-refits", "0", "--generate", "4"]
RUN += ["--length", "16", "--device", "cpu", "--seed", "3"]


@pytest.fixture(params=["gemma3", "qwen2_audio"])
def both(request, tmp_path):
    """Directories of the whole model and of its decoder, with a tokenizer each."""
    _, decoder = wrapped_model(request.param, tmp_path / "whole")
    decoder.save_pretrained(tmp_path / "decoder")
    for name in ("whole", "decoder"):
        write_tokenizer(tmp_path / name)
    return tmp_path / "whole", tmp_path / "decoder"


def test_the_checkpoint_is_that_of_the_decoder(both, tmp_path, capsys):
    stored, configs = [], []
    for directory in both:
        out = tmp_path / f"{directory.name}.out"
        assert main([str(directory), str(out), *RUN]) == 0
        said = capsys.readouterr().err
        assert ("warning: the language model of a" in said) == (directory.name == "whole")
        stored.append(load_file(out / "model.safetensors"))
        configs.append(json.loads((out / "config.json").read_text()))

    assert stored[0].keys() == stored[1].keys()
    for name, tensor in stored[0].items():
        assert torch.equal(tensor, stored[1][name]), name
    for key in ("model_type", "quantization_config", "tie_word_embeddings", "vocab_size"):
        assert configs[0][key] == configs[1][key]


def test_either_is_measured_beside_the_other(both, tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("".join(chr(ord("!") + (7 * i * i) % 90) for i in range(100)))
    words = ["--text", str(text), "--length", "32", "--windows", "2", "--device", "cpu", "--quiet", "--json"]
    assert main(["eval", *map(str, both), *words]) == 0
    whole, decoder = json.loads(capsys.readouterr().out)["models"]
    assert whole["texts"][0]["perplexity"] == pytest.approx(decoder["texts"][0]["perplexity"], rel=1e-6)
