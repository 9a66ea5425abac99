"""`python -m importer`: what it prints, what it refuses, and what the exporter makes of its sources."""

import json

import pytest

from dualbinary.checkpoint import quantized_by
from importer.__main__ import main
from importer.checkpoint import write_model
from tests.support.low_bit_models import low_bit_model
from tests.support.tiny_models import make_model


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return make_model("llama", tmp_path_factory.mktemp("models") / "llama")


def test_inspect_counts_a_plain_model(llama, capsys):
    assert main(["--inspect", str(llama), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["format"], found["model_type"], found["all_bits"]) == ("plain", "llama", 32.0)
    assert found["linear_bits"] is None
    (kind,) = found["kinds"]
    assert kind["tensors"] == 21
    assert kind["exact"]


def test_inspect_counts_a_checkpoint(llama, tmp_path, capsys):
    model = low_bit_model(llama)
    write_model(model, tmp_path / "c")
    assert main(["--inspect", str(tmp_path / "c"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["format"] == "dualbinary"
    assert found["linear_bits"] == 4.5
    assert {kind["name"]: kind["tensors"] for kind in found["kinds"] if "plane" in kind["name"]} == {
        kind["name"]: len(model.weights) for kind in found["kinds"] if "plane" in kind["name"]
    }
    assert main(["--inspect", str(tmp_path / "c")]) == 0
    assert "4.500 bits per quantized weight" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing.gguf", "c"], "nothing.gguf: no such file or directory"),
        (["{llama}"], "name the CHECKPOINT to make, or --inspect"),
        (["{llama}", "c", "--inspect"], "leave CHECKPOINT out with --inspect"),
        (["{llama}", "{tmp}/c"], "nothing says that another tool quantized it; python -m exporter takes it as it is"),
        (["{tmp}/text", "{tmp}/c"], "not a file of a known format; this release reads"),
    ],
)
def test_wrong_input_is_one_sentence(llama, tmp_path, capsys, words, message):
    (tmp_path / "text").write_text("hello")
    assert main([word.format(llama=llama, tmp=tmp_path) for word in words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("block", [{"quant_method": "quip"}, {"quant_method": "torchao", "quant_type": {}}])
def test_an_unknown_method_is_refused_by_name(llama, tmp_path, capsys, block):
    config = json.loads((llama / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": block}))
    assert main([str(tmp_path), str(tmp_path / "c")]) == 2
    error = capsys.readouterr().err
    assert f'quantized with "{block["quant_method"]}" (' in error
    assert "give the full-precision model; this release reads gguf, gptq, awq, " in error


@pytest.mark.parametrize(
    ("values", "beside", "method"),
    [
        ({"quantization": {"bits": 4, "group_size": 64}}, "", '"mlx"'),
        ({"compression_config": {"format": "pack-quantized"}}, "", '"compressed-tensors"'),
        ({}, "quantize_config.json", '"gptq"'),
        ({"quantization_config": {"quant_method": "awq"}}, "", '"awq"'),
        ({}, "", None),
    ],
)
def test_a_directory_of_another_tool_is_known_wherever_it_says_so(tmp_path, values, beside, method):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **values}))
    if beside:
        (tmp_path / beside).write_text("{}")
    assert quantized_by(tmp_path) == method
