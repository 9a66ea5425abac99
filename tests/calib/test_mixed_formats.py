"""Runs whose layers have formats of their own, even levels among them, from the model directory to the checkpoint."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from calib.__main__ import main
from calib.config import BlockConfig, CalibConfig, DataConfig, DistillConfig, FormatConfig, InitConfig
from calib.models.source import SourceModel
from calib.models.stored_checkpoint import StoredCheckpoint
from calib.models.targets import Targets
from calib.pipeline import run
from calib.report.record import read_record
from calib.report.summary import table, table_rows
from calib.save import save_checkpoint
from dualbinary import InputError
from dualbinary.checkpoint import load_module, read_quantization_config, stored_tensors
from dualbinary.contract.scale_codes import BFLOAT16
from dualbinary.contract.weight import EACH_GROUP, PlaneFormat

OVERRIDES = (
    "*.down_proj:planes=3,group_size=32,levels=even",
    "*.v_proj:planes=4,group_size=16,levels=even,offset=false,zero=group",
    "*.o_proj:planes=1,group_size=-1,levels=even,offset=false,scale_type=bfloat16",
    "*.q_proj:planes=8,group_size=32,levels=even,offset=false,zero=128",
    "*.k_proj:planes=3,offset=false,scale_type=float32",
)
WANTED = {
    "down_proj": PlaneFormat(3, 32, offset=True, levels="even"),
    "v_proj": PlaneFormat(4, 16, levels="even", zero=EACH_GROUP),
    "o_proj": PlaneFormat(1, -1, levels="even", zero=0.5),
    "q_proj": PlaneFormat(8, 32, levels="even", zero=128),
    "k_proj": PlaneFormat(3, 64),
    "gate_proj": PlaneFormat(2, 64, offset=True),
    "up_proj": PlaneFormat(2, 64, offset=True),
}
EVEN = FormatConfig(planes=4, group_size=32, offset=False, levels="even")


class Killed(BaseException):
    """Ends a run as a signal would."""


def config(**changes) -> CalibConfig:
    values = {
        "format": FormatConfig(planes=2, group_size=64, override=OVERRIDES),
        "data": DataConfig(generate=12, length=16),
        "init": InitConfig(method="activation", windows=4, refits=0, polishes=0),
        "block": BlockConfig(windows=6, held_out=3, batch=2),
        "e2e": DistillConfig(steps=4, held_out=3, evaluate_every=2, latent_rate=0.001),
        "dtype": "float32",
    }
    return CalibConfig(**{**values, **changes})


@pytest.fixture(scope="module")
def finished(tiny_model, tmp_path_factory) -> Path:
    """The checkpoint of a whole run."""
    out = tmp_path_factory.mktemp("mixed") / "out"
    run(tiny_model("llama"), out, config())
    return out


@pytest.mark.parametrize("method", ["error-feedback", "activation", "fit"])
def test_a_checkpoint_holds_what_the_student_computed(
    tiny_model, calibrated_blocks, blockwise_config, random_tokens, tmp_path, method
):
    wanted = blockwise_config(format=config().format, init=InitConfig(method=method, windows=4, refits=1, polishes=0))
    result = calibrated_blocks(tiny_model("llama"), random_tokens(9, 16), config=wanted)
    layers = result.source.linears
    result.source.load(result.source.model)

    save_checkpoint(result.source, tmp_path / "out", result.weight)

    stored, tensors = read_quantization_config(tmp_path / "out"), stored_tensors(tmp_path / "out")
    assert stored is not None
    for name, layer in layers.items():
        form = stored.format_of(name)
        assert form == WANTED[name.rpartition(".")[2]]
        found = load_module(tensors, name, layer.out_features, layer.in_features, form).dequantize()
        mine = layer.quantized_weight().detach().numpy()
        # The student sums up to P float32 products.
        np.testing.assert_allclose(mine, found, rtol=2**-21, atol=2**-21 * np.abs(found).max())


def test_a_run_ends_in_the_formats_that_were_asked_for(tiny_model, finished):
    stored = read_quantization_config(finished)
    assert stored is not None
    assert (stored.format_version, stored.plane_format) == (3, PlaneFormat(2, 64, offset=True))
    source = SourceModel(tiny_model("llama"), PlaneFormat(2, 64))
    assert {name: stored.format_of(name) for name in source.linears} == {
        name: WANTED[name.rpartition(".")[2]] for name in source.linears
    }
    types = {name.split(".")[-2]: tensor.dtype for name, tensor in load_file(finished / "model.safetensors").items()
             if name.endswith(".scales")}  # fmt: skip
    assert types == dict.fromkeys(WANTED, torch.float16) | {"o_proj": torch.bfloat16, "k_proj": torch.float32}


def test_the_loss_of_the_run_is_that_of_its_checkpoint(tiny_model, finished, tmp_path, capsys):
    """What distillation measured last is what the files hold: evaluation finds it in the same windows."""
    record = read_record(finished)
    tokens = load_file(next(finished.parent.glob("*.generated.safetensors")))
    windows = next(iter(tokens.values()))[-3:]
    source = SourceModel(tiny_model("llama"), PlaneFormat(2, 64))
    source.load(source.model)
    teacher = source.model(input_ids=windows.long()).logits[:, :-1].log_softmax(-1)
    StoredCheckpoint(finished).apply(source)
    student = source.model(input_ids=windows.long()).logits[:, :-1].log_softmax(-1)
    found = (teacher.exp() * (teacher - student)).sum(-1).mean().item()
    assert found == pytest.approx(record["e2e"]["best_loss"], rel=1e-4)


def test_the_report_has_the_formats_and_their_true_bits(finished):
    record = read_record(finished)
    rows = table_rows(record)
    assert rows[0][:3] == ["layer", "format", "bits"]
    cells = {row[0].rpartition(".")[2]: row[1:3] for row in rows[1:]}
    assert cells["q_proj"] == ["8 planes, G=32, even levels, zero 128, float16 scales", "8.500"]
    assert cells["v_proj"] == ["4 planes, G=16, even levels, a zero for each group, float16 scales", "5.250"]
    assert cells["o_proj"] == ["1 plane, G=128, even levels, zero 0.5, bfloat16 scales", "1.125"]
    assert cells["down_proj"] == ["3 planes, G=32, even levels, offset, float16 scales", "4.000"]
    assert cells["k_proj"] == ["3 planes, G=64, free levels, float32 scales", "4.500"]
    assert cells["gate_proj"] == ["2 planes, G=64, free levels, offset, float16 scales", "2.750"]
    assert cells["all"] == ["-", f"{record['model']['bits_per_weight']:.3f}"]
    whole = sum(one["bits_per_weight"] * layer["e2e"]["weights"] for block in record["blocks"]
                for name, layer in block["layers"].items() for one in [record["model"]["formats"][name]])  # fmt: skip
    assert whole == pytest.approx(record["model"]["bits_per_weight"] * record["model"]["quantised_parameters"])
    assert "8 planes, G=32, even levels, zero 128, float16 scales: 2 layers" in table(record)


def test_pictures_are_drawn_of_layers_of_several_formats(finished, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert main(["report", str(finished), "--html", str(tmp_path / "page.html")]) == 0
    assert "8 planes, G=32, even levels, zero 128, float16 scales" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize("calls", [5, 10])
def test_a_run_that_is_killed_goes_on_to_the_same_bits(tiny_model, finished, tmp_path, calls):
    """In the second block, and after the measurement in the middle of distillation; zero points of groups come back."""
    left = [calls]

    def progress(stage, *_, **__):
        left[0] -= stage != "generate"
        if left[0] < 0:
            raise Killed

    made = next(finished.parent.glob("*.generated.safetensors"))
    (tmp_path / made.name).write_bytes(made.read_bytes())
    with pytest.raises(Killed):
        run(tiny_model("llama"), tmp_path / "out", config(), progress=progress)
    done = {file.stem for file in (tmp_path / "out.work").glob("*.safetensors")}
    assert done - {"windows"} == ({"block-000"} if calls == 5 else {"block-000", "block-001", "e2e"})
    run(tiny_model("llama"), tmp_path / "out", config())
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes()
    assert (tmp_path / "out" / "config.json").read_bytes() == (finished / "config.json").read_bytes()


def test_a_checkpoint_of_several_formats_is_a_start(tiny_model, finished, tmp_path, capsys):
    words = [str(tiny_model("llama")), str(tmp_path / "out"), "--start", str(finished), "--generate", "12"]
    words += ["--length", "16", "--stages", "e2e", "--e2e-steps", "1", "--e2e-held-out", "0", "--e2e-scale-rate", "0"]
    assert main([*words, "--quiet"]) == 0
    before, after = (read_quantization_config(one) for one in (finished, tmp_path / "out"))
    assert before == after
    old, new = (load_file(one / "model.safetensors") for one in (finished, tmp_path / "out"))
    assert all(torch.equal(old[name], new[name]) for name in old if name.endswith(".planes"))
    capsys.readouterr()
    assert main([*words[:1], str(tmp_path / "other"), *words[2:], "--planes", "3"]) == 2
    assert "--override as in the checkpoint" in capsys.readouterr().err


def test_another_model_approaches_its_weights(tiny_model, finished):
    source = SourceModel(tiny_model("llama"), PlaneFormat(2, 64))
    targets = Targets(finished, source)
    source.load(source.model)
    wanted = {name: targets.of(layer) for name, layer in source.linears.items()}
    StoredCheckpoint(finished).apply(source)
    for name, layer in source.linears.items():
        assert torch.equal(layer.quantized_weight(), wanted[name])


@pytest.mark.parametrize("zero", [None, "group"], ids=str)
def test_four_even_planes_begin_near_the_teacher_and_training_brings_them_nearer(
    tiny_model, calibrated_blocks, blockwise_config, random_tokens, zero
):
    changes = {"format": EVEN.model_copy(update={"zero": zero}), "init": InitConfig(method="fit")}
    changes["block"] = BlockConfig(windows=24, held_out=4, batch=2, epochs=4, scale_rate=0.003, latent_rate=0.003)
    result = calibrated_blocks(tiny_model("llama"), random_tokens(28, 16), config=blockwise_config(**changes))
    for report in result.reports:
        # 16 levels for 32 Gaussian weights leave some 0.7 % of their squares; a block has products one after another.
        assert all(stages["init"]["weight_error"] < 0.01 for stages in report["layers"].values())
        assert report["error_before"] < 0.1
        assert report["error_after"] < 0.97 * report["error_before"]


def test_scales_of_a_type_that_version_2_lacks_are_written_as_bits(tiny_model, finished):
    source = SourceModel(tiny_model("llama"), PlaneFormat(2, 64))
    name = "model.layers.0.self_attn.o_proj"
    layer, stored = source.linears[name], read_quantization_config(finished)
    assert stored is not None
    weight = load_module(stored_tensors(finished), name, layer.out_features, layer.in_features, stored.format_of(name))
    assert weight.format.scale_dtype == BFLOAT16
    block = json.loads((finished / "config.json").read_text())["quantization_config"]
    assert block["overrides"][name] == {"planes": 1, "group_size": -1, "has_offset": False, "levels": "even",
                                        "zero": 0.5}  # fmt: skip


def test_a_format_that_a_start_does_not_have_is_named(tiny_model, finished, tmp_path):
    other = config(stages=("e2e",), start=str(finished), format=FormatConfig(planes=2, group_size=64))
    with pytest.raises(InputError, match=r"holds .* of model\.layers\.0\.self_attn\.q_proj, expected"):
        run(tiny_model("llama"), tmp_path / "out", other)
