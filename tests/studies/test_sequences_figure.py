"""The figure of perplexity by number of sequences: on a tiny model; points that are there are not made again."""

import json
import xml.etree.ElementTree as ET

import pytest
import torch
from safetensors.torch import save_file

from calib.__main__ import main as calib
from studies import calibration_runs, sequences_figure
from studies.sequences_figure import PICTURE, POINTS, main
from tests.support.tiny_models import VOCABULARY, make_model


@pytest.fixture
def arguments(tmp_path):
    """Of the figure, with a start of two planes without offset and 16 sequences beside what is held out."""
    model = make_model("llama", tmp_path / "llama")
    start = tmp_path / "start"
    options = ["--stages", "init", "--init-method", "fit", "--group-size", "64", "--no-offset", "--device", "cpu"]
    assert calib([str(model), str(start), *options]) == 0
    tokens = torch.randint(0, VOCABULARY, (18, 32), generator=torch.Generator().manual_seed(0))
    save_file({"tokens": tokens.int()}, tmp_path / "sequences.safetensors")
    (tmp_path / "test.txt").write_text("to measure on")
    figure = [str(model), str(tmp_path / "figure"), "--generated", str(tmp_path / "sequences.safetensors")]
    figure += ["--start", str(start), "--test", str(tmp_path / "test.txt"), "--counts", "8", "4"]
    return [*figure, "--options", "--length 32 --e2e-held-out 2 --device cpu --quiet"]


def measured(*_):
    """In place of `python -m calib eval`, whose text a tiny model has no tokenizer for."""
    full, student = ({"perplexity": value, "kl": 0.5, "agreement": 0.5, "nll": [1.0, value]} for value in (3.0, 4.0))
    return json.dumps({"models": [full, student]})


def test_every_point_is_made_once_and_is_in_the_picture(arguments, tmp_path, monkeypatch, capsys):
    ran = []

    def run_calib(*words):
        if words[0] == "eval":
            return measured()
        ran.append(words)
        assert calib([*words]) == 0
        return ""

    monkeypatch.setattr(calibration_runs, "run_calib", run_calib)
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [(point["sequences"], point["by"]) for point in found] == [
        (count, kind) for count in (4, 8) for kind in ("random", "discrepancy")
    ]
    assert ["--scores" in words for words in ran] == [False, False, False, True]
    directory = tmp_path / "figure"
    record = json.loads((directory / "discrepancy-8/calibration.json").read_text())
    assert record["config"]["e2e"]["steps"] == len(record["filter"]["chosen"]) == 8
    assert json.loads((directory / POINTS).read_text()) == found
    text = "".join(ET.fromstring((directory / PICTURE).read_text(encoding="utf-8")).itertext())  # our own
    assert "by discrepancy" in text
    assert "training sequences" in text

    (directory / "random-8.json").unlink()
    (directory / PICTURE).unlink()
    ran.clear()
    assert main([*arguments, "--json"]) == 0
    assert not ran  # its checkpoint is there and is measured again
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == found
    assert (directory / PICTURE).is_file()


def test_numbers_of_sequences_are_checked(arguments, capsys):
    assert sequences_figure.main([*arguments, "--counts", "0"]) == 2
    assert "--counts" in capsys.readouterr().err
