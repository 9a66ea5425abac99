"""Rounded keys and values: what a form stores, and a run over a tiny model."""

import json

import pytest
import torch

from dualbinary import InputError
from dualbinary.contract.blocks import int8_rows
from studies.cache_bits import Form, main, rounded
from tests.support.tiny_models import make_model
from tests.support.tiny_tokenizers import write_tokenizer


def test_eight_bits_a_row_are_the_int8_cache():
    x = torch.randn(3, 5, 32, generator=torch.Generator().manual_seed(0))
    rows = int8_rows(x.numpy())
    expected = rows[..., :32] * rows[..., 32:].copy().view("<f4")
    # 127 / largest and largest / 127 are rounded once each: a number on a boundary of two may go either way.
    assert (rounded(x, Form.read("8")) - torch.from_numpy(expected)).abs().max() <= 1.01 * x.abs().max() / 127
    assert ((rounded(x, Form.read("8")) - torch.from_numpy(expected)).abs() < 1e-6).float().mean() > 0.99


@pytest.mark.parametrize(("text", "levels", "bits"), [("4", 15, 4.5), ("4/32", 15, 4.5), ("4+/32", 16, 5.0)])
def test_numbers_have_so_many_levels(text, levels, bits):
    form = Form.read(text)
    x = torch.linspace(-1, 1, 64)[None]
    assert len(torch.unique(rounded(x[:, :32], form))) <= levels
    # Half a step: of 2 / 14 (of 15 levels), or less with a shift; scales of groups are rounded to float16.
    assert (rounded(x, form) - x).abs().max() <= 1 / 14 + 1e-3
    assert form.stored_bits(64) == bits


@pytest.mark.parametrize("text", ["9", "x", "4/"])
def test_another_text_names_no_form(text):
    with pytest.raises(InputError, match="expected BITS"):
        Form.read(text)


def test_a_run_tells_perplexities(tmp_path, capsys):
    model = make_model("llama", tmp_path / "model")
    write_tokenizer(model)
    text = tmp_path / "text.txt"
    text.write_text("The ferry left before sunrise, as it did every day. " * 30, encoding="utf-8")
    options = ["--windows", "1", "--length", "40", "--forms", "none", "8", "k8v4/32", "--json"]
    assert main([str(model), "--text", str(text), *options]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["form"] for row in rows] == ["none", "8", "k8v4/32"]
    assert rows[0]["more"] == 0
    assert 0 < abs(rows[1]["more"]) < abs(rows[2]["more"]) < 0.1
