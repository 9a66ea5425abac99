"""`make gpu-calibrate`: both checkpoints on a CPU, and the number of steps that a time has room for."""

import json

import pytest

from dualbinary.checkpoint import read_quantization_config
from tests.support.tiny_models import make_model
from tests.support.tiny_tokenizers import write_tokenizer
from tools import gpu_calibrate
from tools.gpu_calibrate import Pace, main, steps_in

SMALL = ["--device", "cpu", "--length", "32", "--quiet", "--e2e-batch", "2", "--e2e-micro-batch", "1"]
SMALL += ["--init-windows", "4", "--init-refits", "1", "--init-polishes", "0"]
SMALL += ["--block-windows", "4", "--block-held-out", "2", "--e2e-held-out", "2"]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, 0), (11, 0), (12.5, 0), (14, 2), (22.5, 9), (1e9, 50)],  # a twentieth is kept; 11, then 1.1 for a step
)
def test_steps_fill_the_time_that_is_left(seconds, expected):
    pace = Pace(step=1.0, measurement=1.0, around=10.0)
    assert steps_in(seconds, pace, every=10, most=50) == expected


def fake(paces):
    """In place of calib: what it was asked for, a directory, and a record of so many seconds a step."""
    asked = []

    def calibrated(model, out, args, *words):
        asked.append((out.name, *words))
        out.mkdir(parents=True)
        steps = int(words[words.index("--e2e-steps") + 1]) if "--e2e-steps" in words else 0
        curve = [{"seconds": paces * step} for step in range(steps + 1)]
        return {
            "e2e": {"curve": curve, "seconds": paces * steps, "first_loss": 2.0, "best_loss": 1.0, "best_step": steps}
        }

    return asked, calibrated


def test_steps_follow_from_the_time_of_a_few(tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    asked, calibrated = fake(paces=1.0)
    monkeypatch.setattr(gpu_calibrate, "calibrated", calibrated)
    assert main(["model", str(out), "--text", "x", "--minutes", "1", "--json"]) == 0
    names = [name for name, *_ in asked]
    assert names == ["blocks", "trial", "distilled"]
    assert asked[0][1:] == ("--stages", "init,block", "--text", "x")
    figures = json.loads(capsys.readouterr().out)
    assert 50 <= figures["steps"] <= 57  # of 60 seconds, a twentieth less
    assert str(figures["steps"]) in asked[2]
    assert figures == json.loads((out / "minutes.json").read_text())
    assert main(["model", str(out), "--text", "x", "--minutes", "1"]) == 2
    assert len(asked) == 3
    assert f"{out / 'distilled'}: is there already" in capsys.readouterr().err


def test_an_interrupted_distillation_goes_on_with_the_same_steps(tmp_path, monkeypatch):
    out = tmp_path / "out"
    asked, calibrated = fake(paces=1.0)

    def interrupted(model, path, args, *words):
        if path.name == "distilled":
            raise KeyboardInterrupt
        return calibrated(model, path, args, *words)

    monkeypatch.setattr(gpu_calibrate, "calibrated", interrupted)
    assert main(["model", str(out), "--text", "x", "--minutes", "1"]) == 130
    steps = json.loads((out / "minutes.json").read_text())["steps"]
    monkeypatch.setattr(gpu_calibrate, "calibrated", calibrated)
    assert main(["model", str(out), "--text", "x", "--minutes", "30"]) == 0
    assert [name for name, *_ in asked] == ["blocks", "trial", "distilled"]
    assert str(steps) in asked[-1]


def test_without_time_the_first_checkpoint_stays(tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    monkeypatch.setattr(gpu_calibrate, "calibrated", fake(paces=100.0)[1])
    assert main(["model", str(out), "--text", "x", "--minutes", "1"]) == 1
    error = capsys.readouterr().err
    assert "no time for a step of distillation" in error
    assert f"{out / 'blocks'} is whole" in error
    assert sorted(path.name for path in out.iterdir()) == ["blocks"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = make_model("llama", tmp_path_factory.mktemp("models") / "llama")
    write_tokenizer(directory)
    return directory


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "letters.txt"
    path.write_text("".join(chr(ord("!") + i * i % 90) for i in range(2000)))
    return path


@pytest.mark.slow
def test_both_checkpoints_are_made_and_none_of_them_again(model, text, tmp_path, capsys):
    out = tmp_path / "out"
    common = [str(model), str(out), "--text", str(text), "--steps", "3", "--json"]
    assert main([*common, "--minutes", "0.001", "--", *SMALL]) == 1
    error = capsys.readouterr().err
    assert "no time for a step of distillation" in error
    assert f"{out / 'blocks'} is whole" in error
    assert read_quantization_config(out / "blocks")
    assert not (out / "distilled").exists()
    made = (out / "blocks" / "calibration.json").stat().st_mtime_ns

    assert main([*common, "--minutes", "10", "--", *SMALL]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures == json.loads((out / "minutes.json").read_text())
    assert figures["steps"] == 3
    assert figures["best_loss"] <= figures["first_loss"]
    assert read_quantization_config(out / "distilled")
    assert (out / "blocks" / "calibration.json").stat().st_mtime_ns == made
    assert sorted(path.name for path in out.iterdir()) == ["blocks", "distilled", "minutes.json"]

    assert main([*common, "--", *SMALL]) == 2
    assert f"{out / 'distilled'}: is there already" in capsys.readouterr().err


def test_what_calib_refuses_ends_with_its_exit_code(tmp_path, capfd):
    with pytest.raises(SystemExit) as ended:
        main(["model", str(tmp_path / "out"), "--text", "x", "--", *SMALL, "--length", "none"])
    assert ended.value.code == 2
    assert "argument --length: invalid int value: 'none'" in capfd.readouterr().err


@pytest.mark.parametrize("wrong", ["0", "-1", "nan", "soon"])
def test_minutes_are_above_zero(wrong, capsys):
    with pytest.raises(SystemExit):
        main(["model", "out", "--text", "x", "--minutes", wrong])
    assert f"expected minutes above 0, got {wrong}" in capsys.readouterr().err
