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
    """A function from a linear class to a directory of a tiny BitNet that transformers rounded and packed."""
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


def gemma_parts(rng, shape, bits, names, blocks=1):
    """Random integers of a width, packed as Gemma's quantization packs them, and scales."""
    N, K = shape
    packed = rng.integers(0, 256, (N, K * bits // 8), dtype=np.uint8)
    scales = (0.08 / (1 << (bits - 1)) * rng.uniform(0.5, 1.5, (N, blocks))).astype(np.float32)
    values = torch.from_numpy(packed.view(np.int8) if bits == 8 else packed), torch.from_numpy(scales)
    return dict(zip(names, values, strict=True))


@pytest.fixture
def packed_gemma4(tmp_path):
    """A directory of a tiny Gemma 4 whose linear layers and tables have 2, 4 and 8 bits."""
    directory, rng = make_model("gemma4_text", tmp_path / "plain"), np.random.default_rng(0)
    edit_config(directory, tie_word_embeddings=False)
    found = {}
    tensors = load_file(directory / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    for name, tensor in tensors.items():
        module = name.removesuffix(".weight")
        if "embed_tokens" in name:
            names = (f"{module}.embedding_quantized", f"{module}.embedding_scale")
            found |= gemma_parts(rng, tensor.shape, 2 if "per_layer" in name else 4, names)
        elif tensor.dim() == 2:
            names = (f"{module}.weight", f"{module}.weight_scale")
            found |= gemma_parts(rng, tensor.shape, 8 if "lm_head" in name else 2 if "mlp" in name else 4, names)
            ranges = ("input_activation_scale", "output_activation_scale")  # 0: nothing is rounded
            found |= {f"{module}.{kind}": torch.zeros(()) for kind in ranges}
        else:
            found[name] = tensor
    unread = "model.layers.3.self_attn.k_proj"  # of a layer that has the keys of another one
    found |= gemma_parts(rng, (64, 128), 4, (f"{unread}.weight", f"{unread}.weight_scale"))
    save_file(found, directory / "model.safetensors", metadata={"format": "pt"})
    widths = {"embed_tokens_per_layer": {"num_bits": 2}, "mlp": {"num_bits": 2}, "lm_head": {"num_bits": 8}}
    block = {"quant_method": "gemma", "num_bits": 4, "quantize_embeddings": True, "module_quant_configs": widths}
    edit_config(directory, quantization_config=block | {"modules_to_not_convert": []})
    return directory


def test_a_packed_gemma4_is_that_of_transformers(packed_gemma4, tmp_path):
    expected = transformers_logits(packed_gemma4)
    model = open_model(packed_gemma4)
    assert any("weights of their own" in note for note in model.notes)
    write_model(model, tmp_path / "checkpoint")
    out = tmp_path / "out" / "model.onnx"

    result = export(tmp_path / "checkpoint", out, ExportOptions(logits="all"))

    tables = {table.parameter: table.bits for table in result.graph.tables if table.stored}
    assert tables == {
        "model.embed_tokens.weight": 4,
        "model.embed_tokens_per_layer.weight": 2,
        "lm_head.weight": 8,
    }
    assert relative_error(logits(out, IDS, library=True), expected) < CLOSE
    assert {row["bits"] for row in result.report["tables"]} == {2, 4, 8}
