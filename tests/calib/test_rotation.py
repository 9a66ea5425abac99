"""Training in a rotated basis: the teacher stays the model, and the checkpoint says what the student computed."""

import json

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from calib.config import BlockConfig, CalibConfig, DataConfig, DistillConfig, FormatConfig, InitConfig
from calib.models.source import SourceModel
from calib.models.stored_checkpoint import StoredCheckpoint
from calib.models.targets import Targets
from calib.pipeline import run
from calib.rotation import rotated, unrotated
from dualbinary import InputError
from dualbinary.checkpoint import load_module, load_rotation, read_quantization_config, stored_tensors
from dualbinary.contract.rotation import Rotation, random_rotation
from dualbinary.contract.weight import PlaneFormat

IDS = torch.arange(16)[None] * 7 % 256
FORMAT = PlaneFormat(2, 64)
# Of float32: sums of up to 160 terms, each off by 2^-24 of the largest, twice, relative to the largest.
ROUNDING = 2 * 160 * 2.0**-24


class Killed(BaseException):
    """Ends a run as a signal would."""


def config(**changes) -> CalibConfig:
    values = {
        "format": FormatConfig(planes=2, group_size=64, rotate=1024),
        "data": DataConfig(generate=12, length=16),
        "init": InitConfig(windows=4, refits=1, polishes=1),
        "block": BlockConfig(windows=6, held_out=3, batch=2),
        "e2e": DistillConfig(steps=2, held_out=3, evaluate_every=1, latent_rate=0.001),
        "dtype": "float32",
    }
    return CalibConfig(**{**values, **changes})


@pytest.fixture(scope="module")
def finished(tiny_model, tmp_path_factory):
    out = tmp_path_factory.mktemp("rotated") / "out"
    return run(tiny_model("llama"), out, config()).directory


@given(st.integers(1, 6), st.integers(1, 3), st.integers(0, 99))
def test_it_is_the_transform_of_the_contract(power, blocks, seed):
    K = blocks * 2**power
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((3, K)).astype(np.float32)
    rotation = Rotation(2**power, rng.choice(np.array([-1, 1], np.int8), K))
    signs = torch.from_numpy(rotation.signs)
    for found, wanted in (
        (rotated(torch.from_numpy(x), signs, rotation), rotation.rotated(x)),
        (unrotated(torch.from_numpy(x), signs, rotation), rotation.unrotated(x)),
    ):
        np.testing.assert_allclose(found.numpy(), wanted, rtol=0, atol=ROUNDING * np.abs(x).max() * 2 ** (power / 2))


def test_gradients_pass_through_its_inverse():
    rotation = random_rotation(32, 16, 0)
    assert rotation is not None
    x = torch.randn(2, 32, dtype=torch.float32, requires_grad=True)
    signs, incoming = torch.from_numpy(rotation.signs), torch.randn(2, 32)
    rotated(x, signs, rotation).backward(incoming)
    torch.testing.assert_close(x.grad, unrotated(incoming, signs, rotation))


@pytest.mark.parametrize(("K", "largest", "size"), [(576, 1024, 64), (1536, 1024, 512), (128, 64, 64), (6, 8, 2)])
def test_blocks_are_as_large_as_inputs_allow(K, largest, size):
    rotation = random_rotation(K, largest, 0)
    assert rotation is not None
    assert rotation.block_size == size
    assert rotation == random_rotation(K, largest, 0)
    assert rotation != random_rotation(K, largest, 1)
    assert random_rotation(K + 1, largest, 0) is None


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_teacher_is_the_model(tiny_model, name):
    plain = SourceModel(tiny_model(name), FORMAT)
    turned = SourceModel(tiny_model(name), FORMAT, rotations=lambda K: random_rotation(K, 1024, 0))
    assert all(layer.rotation is not None for layer in turned.linears.values())
    logits = []
    for source in (plain, turned):
        source.load(source.model)
        logits.append(source.model(input_ids=IDS).logits)
    torch.testing.assert_close(*logits, rtol=0, atol=20 * ROUNDING * logits[0].abs().max().item())


def test_a_checkpoint_is_rotated_and_computes_what_its_weights_stand_for(tiny_model, finished, tmp_path):
    quantization, tensors = read_quantization_config(finished), stored_tensors(finished)
    assert quantization is not None
    assert quantization.format_version == 4
    source = SourceModel(tiny_model("llama"), FORMAT)
    source.load(source.model)
    plain = load_file(tiny_model("llama") / "model.safetensors")
    for name, layer in source.linears.items():
        rotation = load_rotation(quantization, tensors, name)
        assert rotation == random_rotation(layer.in_features, 1024, 0)
        size = layer.out_features, layer.in_features
        weight = load_module(tensors, name, *size, quantization.format_of(name)).dequantize()
        assert rotation is not None
        plain[f"{name}.weight"] = torch.from_numpy(rotation.unrotated(weight))
    save_file(plain, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text((tiny_model("llama") / "config.json").read_text())
    reference = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)

    StoredCheckpoint(finished).apply(source)

    wanted = reference(IDS).logits
    torch.testing.assert_close(
        source.model(input_ids=IDS).logits, wanted, rtol=0, atol=20 * ROUNDING * wanted.abs().max().item()
    )


def test_killed_it_resumes_to_the_same_bytes(tiny_model, finished, tmp_path):
    calls = []

    def killing(*_, **__):
        calls.append(1)
        if len(calls) == 20:
            raise Killed

    with pytest.raises(Killed):
        run(tiny_model("llama"), tmp_path / "out", config(), progress=killing)
    run(tiny_model("llama"), tmp_path / "out", config())
    file = "model.safetensors"
    assert (tmp_path / "out" / file).read_bytes() == (finished / file).read_bytes()


def test_a_run_continues_in_the_basis_of_its_start(tiny_model, finished, tmp_path):
    continued = config(format=FormatConfig(planes=2, group_size=64), start=str(finished), stages=("e2e",), seed=5)
    run(tiny_model("llama"), tmp_path / "out", continued)
    first, second = (load_file(path / "model.safetensors") for path in (finished, tmp_path / "out"))
    signs = [name for name in first if name.endswith(".rotation_signs")]
    assert len(signs) == 14
    assert all(torch.equal(first[name], second[name]) for name in signs)
    other = config(start=str(finished), stages=("e2e",), seed=5)
    with pytest.raises(InputError, match="rotated in another way, expected what --rotate and --seed say; leave"):
        run(tiny_model("llama"), tmp_path / "other", other)


def test_targets_of_any_basis_are_those_of_the_layer(tiny_model, finished):
    source = SourceModel(tiny_model("llama"), FORMAT, rotations=lambda K: random_rotation(K, 32, 3))
    source.load(source.model)
    layer = next(iter(source.linears.values()))
    weight = layer.weight.detach()
    atol = 4 * ROUNDING * weight.abs().max().item()
    torch.testing.assert_close(Targets(tiny_model("llama"), source).of(layer), weight, rtol=0, atol=atol)
    plain = layer.unturned(Targets(finished, source).of(layer))
    StoredCheckpoint(finished).apply(source)
    torch.testing.assert_close(layer.unturned(layer.quantized_weight()), plain, rtol=0, atol=atol)


def test_a_run_without_rotation_is_the_run_it_was(tiny_model):
    assert "rotate" not in json.dumps(config(format=FormatConfig(planes=2, group_size=64)).to_json())
    assert CalibConfig.from_json(config().to_json(), "x").format.rotate == 1024


@pytest.mark.parametrize("size", [0, 1, 96, 65536])
def test_other_numbers_than_powers_of_two_are_refused(size):
    with pytest.raises(ValueError, match="expected a power of two from 2 to 32768"):
        FormatConfig(rotate=size)
