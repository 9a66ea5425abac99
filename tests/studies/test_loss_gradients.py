"""Losses and gradients at a checkpoint of a tiny model: against the plain functions; and the bounds of shares."""

import json

import pytest
import torch
from safetensors.torch import save_file

from calib.__main__ import main as calib
from calib.layers import full_precision
from calib.losses import kl_divergence, logit_error
from calib.models.source import SourceModel
from calib.models.stored_checkpoint import StoredCheckpoint
from studies.loss_gradients import LOSSES, main
from tests.support.tiny_models import VOCABULARY, make_model

T = 24


def test_losses_and_shares_are_those_of_the_model(tmp_path, capsys):
    model, start = make_model("llama", tmp_path / "llama"), tmp_path / "start"
    assert calib([str(model), str(start), "--stages", "init", "--init-method", "fit", "--device", "cpu"]) == 0
    tokens = torch.randint(0, VOCABULARY, (3, T), generator=torch.Generator().manual_seed(0))
    save_file({"tokens": tokens.int()}, tmp_path / "sequences.safetensors")
    capsys.readouterr()
    arguments = [str(model), str(start), "--generated", str(tmp_path / "sequences.safetensors"), "--length", str(T)]
    assert main([*arguments, "--windows", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in found["losses"]}
    assert list(rows) == list(LOSSES)
    assert rows["kl"]["cosine"] == pytest.approx(1)
    assert all(row["norm"] > 0 and abs(row["cosine"]) < 1 + 1e-6 for row in rows.values())
    shares = found["plain_squares"]
    assert 0 < shares["shift"] < 1
    assert 0 < shares["first_token"] < 1
    assert shares["last_blocks"] == pytest.approx(1)  # there are only two

    source = SourceModel(model, StoredCheckpoint(start).format)
    source.load(source.model)
    StoredCheckpoint(start).apply(source)
    with torch.no_grad():
        student = source.model(input_ids=tokens[:2]).logits[:, :-1].flatten(0, 1)
        with full_precision(source.model):
            teacher = source.model(input_ids=tokens[:2]).logits[:, :-1].flatten(0, 1)
    # Products may be in bfloat16, whose roundings of 2^-9 add up over two blocks.
    assert rows["kl"]["loss"] == pytest.approx(kl_divergence(teacher, student).mean().item(), rel=0.1)
    assert rows["mse"]["loss"] == pytest.approx(logit_error(teacher, student).mean().item(), rel=0.1)
    shifted = logit_error(teacher, student, shift=True).mean().item()
    assert rows["mse, its shift too"]["loss"] == pytest.approx(shifted, rel=0.1)


def test_a_number_of_windows_is_checked(tmp_path, capsys):
    model, start = make_model("llama", tmp_path / "llama"), tmp_path / "start"
    assert calib([str(model), str(start), "--stages", "init", "--init-method", "fit", "--device", "cpu"]) == 0
    save_file({"tokens": torch.zeros(2, T, dtype=torch.int32)}, tmp_path / "sequences.safetensors")
    arguments = [str(model), str(start), "--generated", str(tmp_path / "sequences.safetensors"), "--length", str(T)]
    assert main([*arguments, "--windows", "0"]) == 2
    assert "--windows" in capsys.readouterr().err
