"""Analyses of a checkpoint: which words models prefer, how flat the loss is, and the file that keeps both."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import AutoModelForCausalLM

from calib.models.source import SourceModel
from calib.models.stored_checkpoint import StoredCheckpoint
from calib.report.command import main
from calib.report.landscape import FORMATS, landscape
from calib.report.preference import preference
from calib.weight_init.data_free import closed_form
from dualbinary import InputError
from dualbinary.contract.weight import PlaneFormat
from tests.support.report_run import FORMAT, Page, Run

TEXT = "It was the best of times, it was the worst of times, it was the age of wisdom. " * 4


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("report") / "llama")


@pytest.fixture(scope="module")
def model(run):
    return run.model


@pytest.fixture
def checkpoint(run, tmp_path):
    return run.save(tmp_path / "out")


@pytest.fixture(scope="module")
def exact(run, tmp_path_factory):
    """The model with the weights that its planes stand for, so that quantizing changes nothing."""
    tensors = load_file(run.model / "model.safetensors")
    for name, layer in SourceModel(run.model, FORMAT).linears.items():
        planes, scales = run.layers[name]
        layer.set_planes(planes)
        layer.set_scales(scales)
        tensors[f"{name}.weight"] = layer.quantized_weight().detach().contiguous()
    directory = tmp_path_factory.mktemp("exact")
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_bytes((run.model / "config.json").read_bytes())
    return directory


def plain_loss(plain, tokens):
    with torch.no_grad():
        logits = plain(input_ids=tokens).logits[:, :-1]
    return functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).item()


def test_a_checkpoint_that_is_its_model_leans_nowhere(exact, checkpoint, random_tokens):
    source = SourceModel(exact, FORMAT)
    found = preference(source, {"same": StoredCheckpoint(checkpoint)}, random_tokens(3, 20))
    table = found["models"]["same"]
    assert found["tokens"] == 60
    assert table["balance"] == {"argmax": 0, "mass": 0, "nll": 0}
    assert table["all"]["kl"] == 0
    assert table["all"]["positions"] == 3 * 19


def test_preference_is_that_of_plain_models(model, exact, checkpoint, random_tokens):
    tokens = random_tokens(3, 20) // 8  # some tokens often, most never
    calls = []
    found = preference(
        SourceModel(model, FORMAT),
        {"before": StoredCheckpoint(checkpoint), "after": StoredCheckpoint(checkpoint)},
        tokens,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(20 * done, 120) for done in range(1, 7)]
    table = found["models"]["after"]
    assert table == found["models"]["before"]
    for figures in [*table["quartiles"], table["all"]]:
        for key in ("target", "teacher_argmax", "student_argmax", "teacher_mass", "student_mass"):
            assert sum(figures[key]) == pytest.approx(1, abs=1e-5)  # float32 sums of 256 shares
    for name, directory in {"teacher": model, "student": exact}.items():
        wanted = plain_loss(AutoModelForCausalLM.from_pretrained(directory), tokens)
        # Sums of float32 in another order.
        assert table["all"][f"{name}_nll"] == pytest.approx(wanted, rel=1e-4)


def test_the_middle_of_the_landscape_is_the_layer_itself(model, checkpoint, random_tokens):
    tokens = random_tokens(2, 16)
    source = SourceModel(model, FORMAT)
    StoredCheckpoint(checkpoint).apply(source)  # as after another analysis
    name = list(source.linears)[3]
    found = landscape(source, name, tokens, points=3)
    assert found["factors"] == [0.5, 1.0, 1.5]
    assert not any(layer.quantized for layer in source.linears.values())

    assert found["full_precision"] == pytest.approx(
        plain_loss(AutoModelForCausalLM.from_pretrained(model), tokens), rel=1e-5
    )
    assert list(found["formats"]) == list(FORMATS)
    for kind, plane_format in {
        "binary": PlaneFormat(1, 64, offset=True),
        "fdb": PlaneFormat(2, 64, offset=False),
    }.items():
        plain = AutoModelForCausalLM.from_pretrained(model)
        weight = plain.get_parameter(f"{name}.weight")
        state = closed_form(weight.detach(), plane_format, name)
        layer = source.linears[name]
        for (row, y), (column, x) in [((1, 1.0), (1, 1.0)), ((0, 0.5), (2, 1.5)), ((2, 1.5), (1, 1.0))]:
            layer.set_planes(state.planes)
            layer.set_scales(state.scales * torch.tensor([x, y])[:, None, None])
            with torch.no_grad():
                weight.copy_(layer.quantized_weight())
            # float32 sums in another order.
            assert found["formats"][kind]["losses"][row][column] == pytest.approx(plain_loss(plain, tokens), rel=1e-5)
    for valley in found["formats"].values():
        mean = sum(map(sum, valley["losses"])) / 9
        assert valley["rise"] == pytest.approx(mean - valley["losses"][1][1])


def test_weights_on_four_equally_spaced_levels_cost_the_uniform_format_nothing(run, random_tokens, tmp_path):
    tokens = random_tokens(1, 12)
    name = "model.layers.0.mlp.down_proj"  # 160 inputs: a ragged last group
    codes = torch.randint(0, 4, (128, 160), generator=torch.Generator().manual_seed(0))
    tensors = load_file(run.model / "model.safetensors")
    tensors[f"{name}.weight"] = codes / 16 - 1 / 8  # float16 holds step and zero exactly
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_bytes((run.model / "config.json").read_bytes())
    found = landscape(SourceModel(tmp_path, FORMAT), name, tokens, points=3)
    losses = {kind: valley["losses"] for kind, valley in found["formats"].items()}
    assert losses["uniform"][1][1] == pytest.approx(found["full_precision"], rel=1e-6)
    assert abs(losses["binary"][1][1] - found["full_precision"]) > 1e-4
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    for (row, y), (column, x) in [((1, 1.0), (2, 1.5)), ((0, 0.5), (1, 1.0))]:
        with torch.no_grad():
            plain.get_parameter(f"{name}.weight").copy_(x * codes / 16 - y / 8)
        # float32 sums in another order.
        assert losses["uniform"][row][column] == pytest.approx(plain_loss(plain, tokens), rel=1e-5)


def test_a_landscape_of_what_is_not_there_is_refused(model, random_tokens):
    source = SourceModel(model, FORMAT)
    with pytest.raises(InputError, match=r"lm_head.*expected a name such as model\.layers\.0"):
        landscape(source, "lm_head", random_tokens(1, 8))
    with pytest.raises(InputError, match="points: expected an odd number"):
        landscape(source, next(iter(source.linears)), random_tokens(1, 8), points=4)


def test_analyses_are_kept_and_shown_by_later_pages(model, checkpoint, capsys, tmp_path):
    (tmp_path / "<b>.txt").write_text(TEXT)
    asked = ["--analyze", str(tmp_path / "<b>.txt"), "--model", str(model), "--windows", "2", "--length", "12"]
    asked += ["--points", "3"]
    layer = "model.layers.1.mlp.down_proj"
    assert main([str(checkpoint), *asked, "--before", str(checkpoint), "--layer", layer, "--quiet", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)["analyses"]
    assert first["landscape"]["layer"] == layer
    assert list(first["preference"]["models"]) == ["before", "after"]
    assert first == json.loads((checkpoint / "analyses.json").read_text())
    assert main([str(checkpoint), "--html"]) == 0
    assert f"mean rise of the loss around the levels of {layer}" in capsys.readouterr().out
    parsed = Page((checkpoint / "report.html").read_text(encoding="utf-8"))
    assert parsed.tags.count("svg") == 8
    assert "b" not in parsed.tags
    assert any("<b>.txt" in text for text in parsed.texts)
    damaged = {**first, "landscape": {**first["landscape"], "factors": [1.0]}}
    (checkpoint / "analyses.json").write_text(json.dumps(damaged))
    assert main([str(checkpoint), "--html"]) == 2
    assert re.fullmatch(r"error: .*analyses\.json: landscape.factors: .*\n", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--analyze", "TEXT"], "--model MODEL_DIR: expected both"),
        (["--model", "MODEL"], "expected both or neither"),
        (["--analyze", "TEXT", "--model", "MODEL", "--windows", "1000"], "lower --windows"),
        (["--analyze", "TEXT", "--model", "MODEL", "--windows", "0"], "expected at least 1 window"),
        (["--analyze", "TEXT", "--model", "MODEL", "--layer", "lm_head"], "--layer lm_head"),
        (["--analyze", "TEXT", "--model", "MODEL", "--points", "4"], "--points 4"),
        (["--analyze", "TEXT", "--model", "MODEL", "--before", "MODEL"], "has no quantization_config"),
        (["--analyse", "TEXT", "--model", "OUT"], "already a dualbinary checkpoint"),
        (["--analyze", "nothing.txt", "--model", "MODEL"], "nothing.txt"),
        (["--html", "OUT"], "a directory"),
    ],
)
def test_wrong_options_are_one_line_of_error(options, said, model, checkpoint, capsys, tmp_path):
    (tmp_path / "a.txt").write_text(TEXT)
    places = {"TEXT": tmp_path / "a.txt", "MODEL": model, "OUT": checkpoint}
    assert main([str(checkpoint), *(str(places.get(option, option)) for option in options)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not (checkpoint / "analyses.json").exists()
