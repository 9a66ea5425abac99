"""Layers and tables in a rotated basis: the transform, its stages, the checkpoint, and what starts from it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from calib.__main__ import main, parser
from calib.config import BlockConfig, CalibConfig, DataConfig, DistillConfig, FormatConfig, InitConfig
from calib.layers import QuantLinear, full_precision
from calib.models.source import SourceModel
from calib.models.stored_checkpoint import StoredCheckpoint
from calib.models.targets import Targets
from calib.options import config_from
from calib.pipeline import run
from calib.report.record import read_record
from calib.report.summary import sentences
from calib.rotation import InputRotation, random_rotation
from calib.stages.input_statistics import groups_by_input, input_hessian
from dualbinary import InputError
from dualbinary.checkpoint import (
    QuantizationConfig,
    load_module,
    load_rotation,
    read_quantization_config,
    stored_tensors,
)
from dualbinary.contract.rotation import Rotation, block_of
from dualbinary.contract.weight import PlaneFormat
from tests.support.hadamards import cases

FORM = PlaneFormat(2, 64, offset=True)
BLOCKS = {128: 64, 160: 32}  # of the widths of the tiny model, with --rotate 64

# A value is a sum of the terms of its block, two products of at most 64 terms each in float32; each term is multiplied
# by rounded numbers and each sum rounded as often as there are terms: 2 * (64 + 2) roundings of half a unit, 2^-24.
TOLERANCE = 2 * (64 + 2) * 2**-24


def rotated(width: int, seed: int = 0) -> InputRotation:
    rotation = random_rotation(width, 64, seed)
    assert rotation is not None
    return rotation


def quantization(checkpoint: Path) -> QuantizationConfig:
    found = read_quantization_config(checkpoint)
    assert found is not None
    return found


def config(**changes) -> CalibConfig:
    values = {
        "format": FormatConfig(planes=2, group_size=64, rotate=64, embedding_bits=4),
        "data": DataConfig(generate=12, length=16),
        "init": InitConfig(method="activation", windows=4, refits=0, polishes=0),
        "block": BlockConfig(windows=6, held_out=3, batch=2),
        "e2e": DistillConfig(steps=4, held_out=3, evaluate_every=2, latent_rate=0.001),
        "dtype": "float32",
    }
    return CalibConfig(**{**values, **changes})


@pytest.fixture(scope="module")
def finished(tiny_model, tmp_path_factory):
    """The checkpoint of a whole run, its tables among what is rotated."""
    out = tmp_path_factory.mktemp("rotated") / "out"
    run(tiny_model("llama"), out, config(), keep_work=True)
    return out


@given(cases())
def test_the_transform_is_that_of_the_reference_and_its_gradient_the_transpose(case):
    x = torch.from_numpy(case.x.astype(np.float32)).requires_grad_()
    rotation = InputRotation(Rotation(case.block_size, case.signs))
    forth, back = (rotation.undo, rotation) if case.inverse else (rotation, rotation.undo)
    y = forth(x)
    assert y.dtype == torch.float32
    assert (np.abs(y.detach().numpy() - case.expected) <= TOLERANCE * case.sums).all()
    incoming = torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    (found,) = torch.autograd.grad(y, x, incoming)
    torch.testing.assert_close(found, back(incoming), rtol=0, atol=1e-5)


def test_autocast_does_not_reach_into_the_transform():
    x = torch.randn(3, 128, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(rotated(128)(x), rotated(128)(x.clone()))
        found = rotated(128)(x)
    assert torch.equal(found, rotated(128)(x))


def test_blocks_and_signs_follow_from_width_limit_and_seed():
    assert [block_of(width, 1024) for width in (576, 1536, 4096, 40, 48)] == [64, 512, 1024, None, 16]
    assert random_rotation(128, None, 0) is None
    assert random_rotation(40, 64, 0) is None
    one = rotated(128)
    assert one.stored == rotated(128).stored
    assert one.stored != rotated(128, 1).stored
    assert 32 < (one.signs > 0).sum() < 96  # of 128; a fair coin is outside once in 10^8


def test_a_rotated_student_with_exact_weights_is_the_teacher(tiny_model, random_tokens, monkeypatch):
    source = SourceModel(tiny_model("llama"), FORM, (), rotated)
    source.load(source.model)
    rotations = {layer.in_features: layer.stored_rotation for layer in source.linears.values()}
    assert {width: each and each.block_size for width, each in rotations.items()} == BLOCKS
    monkeypatch.setattr(QuantLinear, "quantized_weight", lambda layer, _: layer.full_weight)
    with torch.no_grad():
        with full_precision(source.model):
            teacher = source.model(random_tokens(2, 16)).logits
        for layer in source.linears.values():
            layer.quantized = True
        student = source.model(random_tokens(2, 16)).logits
    assert not torch.equal(student, teacher)
    torch.testing.assert_close(student, teacher, rtol=0, atol=1e-4 * teacher.abs().max().item())


def test_the_hessian_is_that_of_rotated_inputs():
    layer = QuantLinear("one", torch.zeros(4, 128), None, FORM)
    x = torch.randn(50, 128, generator=torch.Generator().manual_seed(0))
    plain = input_hessian(layer, [lambda: layer(x)])
    layer.rotation = rotation = rotated(128)
    matrix = rotation(torch.eye(128)).T
    found = input_hessian(layer, [lambda: layer(x)])
    torch.testing.assert_close(found, matrix @ plain @ matrix.T, rtol=0, atol=1e-5)


def test_layers_that_read_one_value_in_two_bases_are_two_groups(tiny_model):
    x, layers = torch.zeros(1, 128), [QuantLinear(name, torch.zeros(4, 128), None, FORM) for name in "abcd"]
    for layer in layers[1:3]:
        layer.rotation = rotated(128)
    groups = groups_by_input(layers, lambda: [layer(x) for layer in layers])
    assert [[layer.name for layer in group] for group in groups] == [["a"], ["b", "c"], ["d"]]


@pytest.mark.parametrize("method", ["paper", "fit", "activation", "error-feedback"])
def test_every_initialization_approaches_the_rotated_weight(
    tiny_model, calibrated_blocks, blockwise_config, random_tokens, method
):
    wanted = blockwise_config(
        stages=("init",),
        format=FormatConfig(planes=2, group_size=32, offset=False, rotate=64),
        init=InitConfig(method=method, windows=4, refits=0, polishes=0),
        skip=("*.mlp.*",),
    )
    result = calibrated_blocks(tiny_model("llama"), random_tokens(9, 16), config=wanted)
    for report in result.reports:
        for figures in report["layers"].values():
            assert figures["init"]["weight_error"] < 0.4


def unrotated(directory: Path, module: str, size: tuple[int, int]) -> torch.Tensor:
    """The weight of a module of a checkpoint in the basis of its inputs, by what files say alone."""
    stored, tensors = quantization(directory), stored_tensors(directory)
    rotation = load_rotation(stored, tensors, module)
    assert rotation is not None
    weight = load_module(tensors, module, *size, stored.format_of(module)).dequantize()
    return torch.from_numpy(rotation.unrotated(weight)).float()


def test_the_checkpoint_computes_what_the_student_did(tiny_model, finished, random_tokens, tmp_path):
    """The plain model with the dequantized weights turned back by the reference is the student."""
    stored = quantization(finished)
    assert stored.format_version == 4
    plain = load_file(tiny_model("llama") / "model.safetensors")
    for module in [name.removesuffix(".planes") for name in stored_tensors(finished) if name.endswith(".planes")]:
        N, K = plain[f"{module}.weight"].shape
        assert stored.block_size_of(module) == BLOCKS[K]
        assert load_rotation(stored, stored_tensors(finished), module) == rotated(K).stored
        plain[f"{module}.weight"] = unrotated(finished, module, (N, K))
    for file in tiny_model("llama").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    save_file(plain, tmp_path / "model.safetensors", {"format": "pt"})
    source = SourceModel(tiny_model("llama"), PlaneFormat(2, 64))
    source.load(source.model)
    StoredCheckpoint(finished).apply(source)
    tokens = random_tokens(2, 16)
    with torch.no_grad():
        wanted = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)(tokens).logits
        found = source.model(tokens).logits
        with full_precision(source.model):
            teacher = source.model(tokens).logits
    scale = wanted.abs().max().item()
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4 * scale)
    assert (wanted - teacher).abs().max() > 1e-2 * scale  # the comparison above is none of a model with itself


def test_rotated_planes_are_trained(finished):
    record = read_record(finished)
    assert record["model"]["rotations"] == {str(width): block for width, block in BLOCKS.items()}
    line = "rotated inputs, by width: 128 in blocks of 64, 160 in blocks of 32"
    assert line in sentences(record)
    assert record["e2e"]["best_loss"] < record["e2e"]["first_loss"]
    for table in record["tables"]:
        assert table["weight_error"] < 0.02
    for block in record["blocks"]:
        assert block["error_after"] <= block["error_before"]
        for stages in block["layers"].values():
            assert all(figures["weight_error"] < 0.5 for figures in stages.values())


def test_widths_without_a_block_stay_and_are_named(finished):
    record = read_record(finished)
    record["model"]["rotations"] = {"128": 64, "40": None}
    assert any("not rotated, as no block of 16 or more divides them: 40" in line for line in sentences(record))


class Killed(BaseException):
    """Ends a run as a signal would."""


def killed_in(wanted):
    """A progress callback that ends the run at the third call of a stage."""
    left = [3]

    def progress(stage, *_, **__):
        left[0] -= stage == wanted
        if not left[0]:
            raise Killed

    return progress


def test_killed_it_resumes_to_the_same_bytes(tiny_model, finished, tmp_path):
    made = finished.with_name("out.generated.safetensors")
    (tmp_path / made.name).write_bytes(made.read_bytes())
    for stage in ("init+block", "e2e"):
        with pytest.raises(Killed):
            run(tiny_model("llama"), tmp_path / "out", config(), progress=killed_in(stage))
    other = config(format=FormatConfig(planes=2, group_size=64, rotate=32, embedding_bits=4))
    with pytest.raises(InputError, match=r"differs in config\.format\.rotate"):
        run(tiny_model("llama"), tmp_path / "out", other)
    run(tiny_model("llama"), tmp_path / "out", config())
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes()


def parsed(*arguments):
    return config_from(parser().parse_args(["model", "out", *arguments]))


def test_the_option_is_a_power_of_two_and_off(tiny_model):
    assert CalibConfig().with_start_token(False).to_json()["version"] == 2
    assert "rotate" not in CalibConfig().to_json()["format"]
    one = parsed("--rotate", "512", "--no-start-token")
    assert (one.format.rotate, one.to_json()["version"]) == (512, 3)
    assert CalibConfig.from_json(one.to_json(), "file") == one
    for wrong in ("96", "8", "65536"):
        with pytest.raises(InputError, match=r"format\.rotate: expected a power of two from 16 to 32768"):
            parsed("--rotate", wrong)


def test_a_start_keeps_its_rotation_and_contradictions_are_named(tiny_model, finished, tmp_path, capsys):
    made = finished.with_name("out.generated.safetensors")
    words = [str(tiny_model("llama")), str(tmp_path / "out"), "--start", str(finished), "--generated", str(made)]
    words += ["--length", "16", "--device", "cpu", "--stages", "e2e", "--e2e-steps", "1", "--e2e-held-out", "3"]
    words += ["--seed", "7", "--dtype", "float32"]  # of which other signs would follow
    assert main([*words, "--group-size", "64"]) == 2
    assert "with a rotation in blocks of 64, expected no rotation; set --rotate" in capsys.readouterr().err
    assert main([*words, "--group-size", "64", "--rotate", "32"]) == 2
    assert "with a rotation in blocks of 64, expected a rotation in blocks of 32" in capsys.readouterr().err
    assert main(words) == 0
    before, after = (load_file(directory / "model.safetensors") for directory in (finished, tmp_path / "out"))
    names = [name for name in before if name.endswith((".rotation_signs", ".planes"))]
    assert len(names) == 2 * (2 * 7 + 2)
    assert all(torch.equal(before[name], after[name]) for name in names)


def test_an_unrotated_start_cannot_be_rotated(tiny_model, tmp_path, capsys):
    plain = config(stages=("init",), format=FormatConfig(planes=2, group_size=64), init=InitConfig(method="fit"))
    run(tiny_model("llama"), tmp_path / "plain", plain)
    words = [str(tiny_model("llama")), str(tmp_path / "out"), "--start", str(tmp_path / "plain"), "--stages", "e2e"]
    words += ["--generate", "12", "--length", "16", "--planes", "2", "--group-size", "64", "--rotate", "64"]
    assert main(words) == 2
    assert "with no rotation, expected a rotation in blocks of 64" in capsys.readouterr().err


def test_a_rotated_checkpoint_is_a_target_in_the_basis_of_inputs(tiny_model, finished):
    source = SourceModel(tiny_model("llama"), FORM)
    source.load(source.model)
    targets = Targets(finished, source)
    for name, layer in source.linears.items():
        wanted = unrotated(finished, name, (layer.out_features, layer.in_features))
        torch.testing.assert_close(targets.of(layer), wanted, rtol=0, atol=1e-5)


def test_signs_that_are_missing_are_named(tiny_model, finished, tmp_path):
    for file in finished.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.0.self_attn.q_proj.rotation_signs"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"q_proj should be \[128\], got none; fetch or write it again"):
        StoredCheckpoint(tmp_path).rotation_of("model.layers.0.self_attn.q_proj", 128)
