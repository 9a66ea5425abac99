"""Models that were trained in few bits, as transformers packs and runs them: imported, exported, and run."""

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.integrations import bitnet

from exporter.options import ExportOptions
from exporter.pipeline import export
from importer.checkpoint import write_model
from importer.readers import open_model
from tests.support.sessions import logits
from tests.support.tiny_models import edit_config, make_model

IDS = np.arange(3, 43)[None] * 5 % 256
CLOSE = 1e-3  # of the largest logit: activations in 15 bits, as in the tests of parity; 1.3e-4 was seen


def relative_error(got, expected):
    return np.abs(got - expected).max() / np.abs(expected).max()


def transformers_logits(directory):
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.inference_mode():
        return model.eval()(torch.from_numpy(IDS)).logits.numpy()


def exported_logits(directory, place):
    write_model(open_model(directory), place / "checkpoint")
    out = place / "out" / "model.onnx"
    export(place / "checkpoint", out, ExportOptions(logits="all", embedding_bits=32, fallback="none"))
    return logits(out, IDS, library=True)


@pytest.fixture
def packed_bitnet(tmp_path):
    """A function from a linear class to a directory of a tiny BitNet, its weights rounded and packed by transformers."""
    make_model("bitnet", tmp_path / "plain")

    def pack(linear_class):
        tensors = load_file(tmp_path / "plain" / "model.safetensors")
        for name in [name for name in tensors if "_proj" in name]:
            size = tensors[name].abs().mean()
            tensors[name] = bitnet.pack_weights((tensors[name] / size).round().clamp(-1, 1))
            tensors[f"{name}_scale"] = (size if linear_class == "autobitlinear" else 1 / size).reshape(1)
        save_file(tensors, tmp_path / "plain" / "model.safetensors", metadata={"format": "pt"})
        block = {"quant_method": "bitnet", "linear_class": linear_class, "quantization_mode": "offline"}
        edit_config(tmp_path / "plain", quantization_config=block | {"modules_to_not_convert": ["lm_head"]})
        return tmp_path / "plain"

    return pack


@pytest.mark.parametrize("linear_class", ["bitlinear", "autobitlinear"])
def test_a_packed_bitnet_is_that_of_transformers_but_for_its_rounded_inputs(
    packed_bitnet, tmp_path, monkeypatch, linear_class
):
    directory = packed_bitnet(linear_class)
    with torch.compiler.set_stance("force_eager"):  # transformers compiles these layers, which takes a minute
        rounded = transformers_logits(directory)
        monkeypatch.setattr(bitnet.BitLinear, "activation_quant", lambda _, x: (x, torch.ones(1)))
        monkeypatch.setattr(bitnet.ActQuant, "apply", lambda x: x)
        whole = transformers_logits(directory)

    got = exported_logits(directory, tmp_path)

    assert relative_error(got, whole) < CLOSE
    assert relative_error(rounded, whole) > 10 * CLOSE  # inputs of 8 bits a token: 0.021 was seen
    assert relative_error(got, rounded) < 0.05
