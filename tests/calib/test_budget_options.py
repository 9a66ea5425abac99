"""Which budget a command line asks for: that of a preset, another, or none where a format takes its place."""

import json

import pytest

from calib.__main__ import main, parser
from calib.config import CalibConfig
from calib.format_config import FormatConfig
from calib.options import config_from
from tests.support.tiny_models import make_model

SMALL = ["--stages", "init", "--init-method", "fit", "--init-windows", "8", "--generate", "8", "--length", "16"]


@pytest.fixture(scope="module")
def budgeted(tmp_path_factory):
    """A model, and the checkpoint of a run with a budget."""
    directory = tmp_path_factory.mktemp("budget")
    model, out = make_model("llama", directory / "llama"), directory / "out"
    assert main([str(model), str(out), *SMALL, "--bits", "3", "--device", "cpu", "--quiet"]) == 0
    return model, out


@pytest.fixture
def asking(tmp_path):
    """A file of --config that asks for three bits."""
    value = FormatConfig(bits=3).model_dump(mode="json")
    file = tmp_path / "run.json"
    file.write_text(json.dumps({"config": {"format": value}}))
    return file


def form(*arguments):
    return config_from(parser().parse_args(["model", "out", *arguments])).format


def test_a_format_or_another_budget_takes_the_place_of_that_of_a_preset():
    quick = ("--preset", "quick")
    assert form(*quick).bits == 3.5
    assert (form(*quick, "--planes", "4").bits, form(*quick, "--planes", "4").planes) == (None, 4)
    assert (form(*quick, "--size", "60MB").bits, form(*quick, "--size", "60MB").size) == (None, 60_000_000)
    assert (form(*quick, "--rotate", "64").bits, form(*quick, "--bits", "2.5").bits) == (3.5, 2.5)


@pytest.mark.parametrize("name", ["fast", "best", "gpu"])
def test_presets_that_train_have_a_budget_of_two_and_a_half_bits(name):
    assert form("--preset", name).bits == 2.5


@pytest.mark.parametrize(
    "arguments",
    [
        ("--planes", "2"),
        ("--method", "qbb"),
        ("--start", "somewhere"),
        ("--scale-type", "float32"),
        ("--init-method", "fit"),  # asks for no text
        ("--init-method", "paper"),  # knows no even levels
    ],
)
def test_what_a_budget_cannot_have_takes_its_place(arguments):
    assert not form(*arguments).has_budget


def test_a_budget_that_is_asked_for_stays(asking, capsys):
    assert form("--method", "fdb").bits == 2.5
    for asked in (("--bits", "3"), ("--config", str(asking))):
        assert form("--init-method", "fit", *asked).bits == 3
        assert main(["model", "out", *asked, "--scale-type", "float16"]) == 2
        assert "--scale-type: expected uint8 with --bits, got float16" in capsys.readouterr().err
    assert not form("--config", str(asking), "--planes", "4").has_budget


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--bits", "3", "--planes", "2", "--no-offset"],
            "--bits decides the format of every layer; leave out --planes, --no-offset",
        ),
        (["--size", "60MB", "--levels", "even"], "--size decides the format of every layer; leave out --levels"),
        (
            ["--preset", "quick", "--start", "somewhere"],
            "--start: takes the place of the only stage, init; add --stages",
        ),
    ],
)
def test_wishes_that_contradict_are_refused(capsys, arguments, message):
    assert main(["model", "out", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_start_brings_its_formats_whatever_has_a_budget(budgeted, asking):
    model, out = budgeted
    stored = CalibConfig.read(out / "calibration.json").format
    for base in ([], ["--preset", "gpu"], ["--config", str(asking)], ["--method", "fdb"], ["--scale-type", "uint8"]):
        found = config_from(parser().parse_args([str(model), "out", "--start", str(out), "--stages", "e2e", *base]))
        assert found.format.layer_formats.overrides == stored.layer_formats.overrides
        assert found.format.plane_format == stored.plane_format
    assert form("--start", str(out), "--preset", "paper").planes == 2


def test_a_format_takes_the_place_of_what_a_budget_chose(budgeted):
    record = ("--config", str(budgeted[1] / "calibration.json"))
    assert form(*record).override
    assert form(*record, "--planes", "2") == FormatConfig(planes=2)
    assert form(*record, "--bits", "3") == FormatConfig(bits=3)
