"""What level 4 and an int8 cache cost each layer: a run over a tiny model."""

import json

import pytest

from dualbinary import InputError
from studies.activation_error import main
from studies.level_variants import Model
from tests.support.commands_here import run_here
from tests.support.tiny_models import make_model
from tests.support.tiny_tokenizers import write_tokenizer

LAYERS = 2
PRODUCTS = ("q_proj_k_proj_v_proj", "o_proj", "gate_proj_up_proj", "down_proj")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = make_model("llama", tmp_path_factory.mktemp("tiny") / "model")
    write_tokenizer(path)
    return path


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("The ferry left before sunrise, as it did every day. " * 20, encoding="utf-8")
    return path


def test_a_run_tells_the_error_of_each_layer(directory, text, tmp_path, monkeypatch):
    out, ran = tmp_path / "figures.json", run_here(monkeypatch)
    assert main([str(directory), "--text", str(text), "--windows", "1", "--length", "32", "--out", str(out)]) == 0
    assert ran == ["exporter"]
    found = json.loads(out.read_text())
    names = [row["product"] for row in found["products"]]
    assert len(names) == len(set(names)) == 4 * LAYERS + 1  # and the head
    assert all(any(name.endswith(f".{kind}") for name in names) for kind in PRODUCTS)
    for row in found["products"]:
        assert 1e-4 < row["error"] <= row["worst"] < 0.1
        assert row["outlier"] >= 1
        assert row["kl"] > 0
    kls = [row["kl"] for row in found["products"]]
    assert kls == sorted(kls, reverse=True)
    assert {row["layer"] for row in found["caches"]} == set(range(LAYERS))
    assert all(0 < row["key_error"] < 0.02 and row["kl"] > 0 for row in found["caches"])
    together = found["together"]
    assert together["level 4, worst 4 exact"] < together["level 4"]
    assert out.with_suffix(".svg").read_text().startswith("<svg")


def test_a_file_of_the_last_tokens_logits_is_refused(directory, text, tmp_path, capsys):
    from exporter.__main__ import main as export

    path = tmp_path / "m" / "m.onnx"
    assert export([str(directory), str(path), "--quiet", "--no-check"]) == 0
    with pytest.raises(InputError, match="--logits all"):
        Model(path)
    capsys.readouterr()
    assert main([str(path), "--text", str(text)]) == 2
    assert "export with --logits all" in capsys.readouterr().err
