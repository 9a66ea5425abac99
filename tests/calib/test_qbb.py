"""`python -m calib --method qbb` as a user runs it, and that its levels are symmetric through all of it."""

import json
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from calib.__main__ import main, parser
from calib.layers import QuantLinear
from calib.models.source import SourceModel
from calib.models.targets import Targets
from calib.options import config_from
from calib.scale_parameters import checked_parameters, round_parameters, to_scales
from dualbinary import InputError, dequantize
from dualbinary.checkpoint import read_quantization_config
from dualbinary.contract.weight import PlaneFormat
from tests.support.tiny_models import make_model

SMALL = ["--generate", "10", "--length", "16", "--e2e-steps", "4", "--e2e-held-out", "3", "--e2e-evaluate-every", "2"]
SMALL += ["--block-windows", "6", "--block-held-out", "3", "--init-windows", "4", "--device", "cpu", "--quiet"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model("llama", tmp_path_factory.mktemp("models") / "llama")


def calibrate(model, out, *words):
    assert main([str(model), str(out), "--method", "qbb", *SMALL, *words]) == 0
    return out


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory):
    return calibrate(model, tmp_path_factory.mktemp("finished") / "out", "--bases", "3", "--group-size", "-1")


def parsed(*arguments):
    return config_from(parser().parse_args(["model", "out", *arguments]))


def layers_of(directory):
    """Planes and scales of every layer of a checkpoint."""
    tensors = load_file(directory / "model.safetensors")
    names = [name.removesuffix(".planes") for name in tensors if name.endswith(".planes")]
    return {name: (tensors[f"{name}.planes"], tensors[f"{name}.scales"]) for name in names}


finite = st.floats(-100, 100, width=32)


@given(st.lists(st.lists(finite, min_size=3, max_size=3), min_size=1, max_size=4))
def test_factors_as_stored_are_symmetric_to_the_last_bit(values):
    factors = torch.tensor(values)[..., None]
    plane_format = PlaneFormat(len(values), 32, offset=True, levels="symmetric")
    moved = round_parameters(plane_format, factors)
    stored = to_scales(plane_format, moved)
    assert torch.equal(stored, stored.half().float())
    assert torch.equal(stored[-1], -stored[:-1].sum(0) / 2)
    assert torch.equal(checked_parameters(plane_format, stored), moved)
    assert torch.equal(round_parameters(plane_format, moved), moved)  # what is stored stays
    # 2^-11 of the sum of sizes, or half of float16's smallest step.
    limit = (factors.abs().sum(0) * 2.0**-11 * (1 + 2.0**-8)).clamp_min(2.0**-25)
    assert ((moved - factors).abs() <= limit).all()


def test_a_gradient_of_scales_reaches_the_factors_through_the_constraint():
    """D loss / d a[p] by central differences of the levels."""
    plane_format = PlaneFormat(2, 32, offset=True, levels="symmetric")
    layer = QuantLinear("w", torch.randn(4, 64), None, plane_format)
    factors = torch.rand(2, 4, 2) + 0.1
    layer.set_scales(to_scales(plane_format, factors))
    layer.set_planes(torch.randint(0, 256, (2, 4, 8), dtype=torch.uint8))
    layer.quantized = True
    layer.scales.requires_grad_()
    x = torch.randn(3, 64)
    layer(x).square().sum().backward()
    assert layer.scales.shape == factors.shape
    assert layer.scales.grad is not None
    # The loss is quadratic in each factor, so that central differences are exact but for rounding: terms of about
    # 64 * 9 in float32 over a step of 0.125 leave 1e-7 * 600 * 12 / 0.25 = 3e-3.
    for place in ((0, 1, 0), (1, 3, 1)):
        losses = []
        for step in (0.125, -0.125):
            moved = factors.clone()
            moved[place] += step
            layer.set_scales(to_scales(plane_format, moved))
            losses.append(layer(x).double().square().sum().item())
        gradient = (losses[0] - losses[1]) / 0.25
        layer.set_scales(to_scales(plane_format, factors))
        layer.scales.requires_grad_()
        layer(x).square().sum().backward()
        assert layer.scales.grad[place].item() == pytest.approx(gradient, abs=1e-2, rel=1e-3)


def test_scales_that_are_not_symmetric_are_refused():
    with pytest.raises(InputError, match="minus half the sum"):
        checked_parameters(PlaneFormat(2, 32, offset=True, levels="symmetric"), torch.ones(3, 1, 1))


def test_the_method_brings_its_own_preset():
    config = parsed("--method", "qbb", "--bases", "4")
    assert (config.format.method, config.format.planes, config.stages) == ("qbb", 4, ("init", "layer", "e2e"))
    assert parsed("--preset", "qbb") == parsed("--method", "qbb")
    assert parsed("--method", "qbb", "--from", "elsewhere").targets == "elsewhere"
    with pytest.raises(InputError, match=r"init\.method"):
        parsed("--method", "qbb", "--init-method", "paper")


def test_a_run_keeps_levels_symmetric_to_the_end(finished):
    quantization = read_quantization_config(finished)
    assert quantization is not None
    assert (quantization.method, quantization.group_size, quantization.format_version) == ("qbb", -1, 2)
    for planes, scales in layers_of(finished).values():
        assert len(planes) == 3
        assert scales.shape == (4, planes.shape[1], 1)
        assert scales.dtype == torch.float16
        assert torch.equal(scales[3].float(), -scales[:3].float().sum(0) / 2)


def test_the_record_tells_each_stage(finished):
    record = json.loads((finished / "calibration.json").read_text())
    for block in record["blocks"]:
        for figures in block["layers"].values():
            assert list(figures) == ["init", "layer", "e2e"]
            assert figures["layer"]["weight_error"] <= figures["init"]["weight_error"]
            assert len(figures["layer"]["flipped"]) == 3
    assert record["e2e"]["best_loss"] <= record["e2e"]["first_loss"]
    assert record["model"]["bits_per_weight"] == pytest.approx(
        sum(8 * (planes.nbytes + scales.nbytes) for planes, scales in layers_of(finished).values())
        / record["model"]["quantised_parameters"]
    )


def test_distillation_moves_factors_and_no_bit(model, finished, tmp_path):
    words = ("--bases", "3", "--group-size", "-1", "--stages", "init,layer")
    before = layers_of(calibrate(model, tmp_path / "before", *words))
    for name, (planes, scales) in layers_of(finished).items():
        assert torch.equal(planes, before[name][0])
        assert not torch.equal(scales, before[name][1])


def test_a_report_of_a_run_has_its_pictures(finished, tmp_path, capsys):
    assert main(["report", str(finished), "--html", str(tmp_path / "page.html")]) == 0
    assert "weights, layer" in capsys.readouterr().out
    assert "Bits turned over" in (tmp_path / "page.html").read_text()


def test_a_run_repeats_from_its_record_and_goes_on_from_its_checkpoint(model, finished, tmp_path):
    again = tmp_path / "again"
    assert main([str(model), str(again), "--config", str(finished / "calibration.json"), "--device", "cpu"]) == 0
    assert (again / "model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes()
    words = ["--group-size", "-1", "--start", str(finished), "--stages", "e2e"]
    further = calibrate(model, tmp_path / "further", *words)
    for name, (planes, _) in layers_of(finished).items():
        assert torch.equal(planes, layers_of(further)[name][0])
    refused = [str(model), str(tmp_path / "refused"), *SMALL, "--start", str(finished), "--stages", "e2e"]
    assert main([*refused, "--bases", "3", "--group-size", "-1"]) == 2  # the method is another


def test_a_run_that_is_stopped_goes_on_to_the_same_bytes(model, finished, tmp_path, monkeypatch):
    from calib.stages import blockwise

    real, calls = blockwise.binarize, []

    def stop_at_the_tenth(*arguments):
        calls.append(1)
        if len(calls) == 10:  # in the second block
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(blockwise, "binarize", stop_at_the_tenth)
    out = tmp_path / "out"
    words = [str(model), str(out), "--method", "qbb", *SMALL, "--bases", "3", "--group-size", "-1"]
    assert main(words) != 0
    assert not out.exists()
    assert main(words) == 0
    assert len(calls) == 10 + 7  # the first block is not done again
    assert (out / "model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes()


def test_a_plan_counts_no_text_for_what_looks_at_none(model, tmp_path, capsys):
    assert (
        main(
            [
                str(model),
                str(tmp_path / "out"),
                "--method",
                "qbb",
                "--length",
                "128",
                "--plan",
                "--json",
                "--device",
                "cpu",
            ]
        )
        == 0
    )
    stages = json.loads(capsys.readouterr().out)["stages"]
    assert stages["init+block"]["tokens"] == 0
    assert stages["init+block"]["seconds"] > 0
    assert stages["e2e"]["tokens"] > 0


def test_blocks_can_be_reconstructed_with_bases(model, tmp_path):
    out = calibrate(model, tmp_path / "out", "--bases", "2", "--group-size", "32", "--stages", "init,layer,block")
    record = json.loads((out / "calibration.json").read_text())
    assert all(block["error_after"] <= block["error_before"] for block in record["blocks"])
    for _, scales in layers_of(out).values():
        assert torch.equal(scales[2].float(), -scales[:2].float().sum(0) / 2)


def test_a_start_may_look_at_inputs(model, tmp_path):
    out = calibrate(model, tmp_path / "out", "--init-method", "error-feedback", "--stages", "init", "--bases", "2")
    record = json.loads((out / "calibration.json").read_text())
    assert all(figures["init"]["output_error"] for block in record["blocks"] for figures in block["layers"].values())


@pytest.fixture(scope="module")
def doubled(model, tmp_path_factory):
    """The model with weights twice as large, saved by transformers, as a dequantized one would be."""
    path = tmp_path_factory.mktemp("models") / "doubled"
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.no_grad():
        for name, value in loaded.named_parameters():
            if "_proj" in name:
                value.mul_(2)
    loaded.save_pretrained(path)
    return path


WORDS = ("--bases", "2", "--group-size", "32", "--stages", "init,layer")


def test_weights_of_another_model_are_approached(model, doubled, tmp_path):
    plain = layers_of(calibrate(model, tmp_path / "plain", *WORDS))
    other = layers_of(calibrate(model, tmp_path / "other", *WORDS, "--from", str(doubled)))
    for name, (planes, scales) in plain.items():
        assert torch.equal(planes, other[name][0])
        assert torch.equal(2 * scales, other[name][1])  # powers of two do not round
    record = json.loads((tmp_path / "other/calibration.json").read_text())
    figures = record["blocks"][0]["layers"]["model.layers.0.mlp.up_proj"]["layer"]
    assert figures["weight_error"] > 0.5  # against the full-precision model, not against what was approached


def dequantized(layers):
    return {
        name: torch.from_numpy(dequantize(planes.numpy(), scales.numpy(), 8 * planes.shape[2], 32))
        for name, (planes, scales) in layers.items()
    }


def test_a_checkpoint_of_ours_is_approached_dequantized(model, tmp_path):
    """One basis in groups of 32 is found again by one basis; FDB's levels are approached as far as two bases can."""
    words = ("--group-size", "32", "--stages", "init,layer")
    one = calibrate(model, tmp_path / "one", "--bases", "1", *words)
    again = calibrate(model, tmp_path / "again", "--bases", "1", *words, "--from", str(one))
    for name, (planes, scales) in layers_of(one).items():
        assert torch.equal(planes, layers_of(again)[name][0])
        assert torch.equal(scales, layers_of(again)[name][1])
    fdb = tmp_path / "fdb"
    assert main([str(model), str(fdb), *SMALL, "--stages", "init", "--init-method", "fit", "--group-size", "32"]) == 0
    approached, plain = (
        dequantized(layers_of(calibrate(model, tmp_path / name, "--bases", "2", *words, *more)))
        for name, more in (("of-fdb", ("--from", str(fdb))), ("plain", ()))
    )
    for name, wanted in dequantized(layers_of(fdb)).items():
        assert (approached[name] - wanted).square().sum() < (plain[name] - wanted).square().sum()


@pytest.fixture(scope="module")
def eight_bits(model, tmp_path_factory):
    """The model in blocks of float8, as transformers stores fp8, and its weights dequantized."""
    path = tmp_path_factory.mktemp("models") / "fp8"
    shutil.copytree(model, path)
    tensors, weights = load_file(model / "model.safetensors"), {}
    for name in [name for name in tensors if "_proj.weight" in name]:
        N, K = tensors[name].shape
        blocks = tensors[name].view(N // 32, 32, K // 32, 32)
        factors = blocks.abs().amax((1, 3)) / torch.finfo(torch.float8_e4m3fn).max
        codes = (blocks / factors[:, None, :, None]).to(torch.float8_e4m3fn)
        weights[name.removesuffix(".weight")] = (codes.float() * factors[:, None, :, None]).reshape(N, K)
        tensors[name], tensors[f"{name}_scale_inv"] = codes.reshape(N, K), factors
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    config = json.loads((path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [32, 32]}
    config["quantization_config"] |= {"activation_scheme": "dynamic", "modules_to_not_convert": ["lm_head"]}
    (path / "config.json").write_text(json.dumps(config))
    return path, weights


def test_another_quantizers_result_is_dequantized_and_approached(model, eight_bits):
    directory, wanted = eight_bits
    source = SourceModel(model, PlaneFormat(2, 32, offset=True, levels="symmetric"))
    source.load(source.model)
    targets = Targets(directory, source)
    for name, layer in source.linears.items():
        # Dequantized in bfloat16, whose 8 bits round by 2^-9 of a value; half as much again for the product.
        torch.testing.assert_close(targets.of(layer), wanted[name], rtol=2.0**-8, atol=1e-6)
        assert not torch.equal(targets.of(layer), layer.weight)


def test_what_can_not_be_approached_is_named(model, tmp_path, capsys):
    words = [str(model), str(tmp_path / "out"), "--method", "qbb", *SMALL, *WORDS]
    assert main([*words, "--from", str(tmp_path / "nothing")]) == 2
    assert "not a directory" in capsys.readouterr().err
    other = make_model("gpt2", tmp_path / "gpt2")
    assert main([*words, "--from", str(other), "--fresh"]) == 2
    assert "has no weight matrix for model.layers.0" in capsys.readouterr().err
    broken = shutil.copytree(model, tmp_path / "gptq")
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(
        json.dumps({**config, "quantization_config": {"quant_method": "gptq", "bits": 4}})
    )
    assert main([*words, "--from", str(broken), "--fresh"]) == 2
    assert "does not load it dequantized" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
