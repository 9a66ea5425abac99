"""A GGUF file of a model gives back that model: configuration, names, every weight, and so its logits, to the bit."""

from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers

from dualbinary import InputError
from exporter.options import ExportOptions
from exporter.pipeline import export
from exporter.source.transformers_model import directory_of
from importer.checkpoint import write_model
from importer.model import LowBitModel
from importer.readers import open_model
from tests.support.gguf_files import Type, dequantized, write_tiny_model
from tests.support.gguf_models import MODELS
from tests.support.sessions import logits

SAME = 4e-3  # of the largest logit: activations in 15 bits, as in the check of an export; 1.2e-3 was seen
TOKENS = torch.arange(24)[None] * 7 % 256


def rebuilt(model: LowBitModel) -> Any:
    """The model in transformers that a `LowBitModel` stands for."""
    with directory_of(model.config) as directory:
        config = transformers.AutoConfig.from_pretrained(directory)
    built: Any = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    state = {name: torch.from_numpy(tensor.read().astype(np.float32)) for name, tensor in model.tensors.items()}
    for module, weight in model.weights.items():
        values = torch.from_numpy(dequantized(weight.read()))
        transposed = isinstance(built.get_submodule(module), transformers.pytorch_utils.Conv1D)
        state[f"{module}.weight"] = values.T if transposed else values
    missing, unexpected = built.load_state_dict(state, strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight", "output.weight"}  # tied
    built.tie_weights()
    return built


@pytest.mark.parametrize("name", MODELS)
def test_a_file_of_float32_gives_the_model_back(name, tmp_path):
    model = write_tiny_model(tmp_path / "model.gguf", name)
    opened = open_model(tmp_path / "model.gguf")
    built = rebuilt(opened)
    assert opened.notes == ()
    for parameter, value in model.named_parameters():
        if parameter.endswith("A_log"):  # the logarithm of a rounded exponential
            assert torch.allclose(built.get_parameter(parameter), value, atol=4e-7, rtol=4e-7)
            built.get_parameter(parameter).data.copy_(value)
        assert torch.equal(built.get_parameter(parameter), value), parameter
    for buffer, value in model.named_buffers():
        assert torch.equal(built.get_buffer(buffer), value), buffer
    with torch.no_grad():
        assert torch.equal(built(TOKENS).logits, model(TOKENS).logits)


QUANTIZED = ["llama", "gemma3", "gpt2", "bloom", "falcon of groups", "smollm3", "gemma4", "qwen35", "granitehybrid"]

EXPORTED = ["smollm3", "hunyuan-dense", "bitnet", "gemma4", "qwen35", "granitehybrid", "lfm2"]


@pytest.mark.parametrize("name", QUANTIZED)
def test_quantized_rows_follow_their_weights(name, tmp_path):
    model = write_tiny_model(tmp_path / "model.gguf", name, types=lambda tensor: _type_of(tensor))
    opened = open_model(tmp_path / "model.gguf")
    kinds = {weight.kind for weight in opened.weights.values()}
    assert kinds == {"Q8_0", "Q4_1", "Q5_0"}
    for module, weight in opened.weights.items():
        value = model.get_submodule(module).weight.detach().numpy()
        if isinstance(model.get_submodule(module), transformers.pytorch_utils.Conv1D):
            value = np.ascontiguousarray(value.T)
        kind = Type[weight.kind]  # rows are quantized one by one, so their order does not matter
        expected = gguf.dequantize(gguf.quantize(value, kind), kind)
        assert np.array_equal(dequantized(weight.read()), expected), module


@pytest.mark.parametrize("name", EXPORTED)
def test_an_export_computes_what_the_file_says(name, tmp_path):
    write_tiny_model(tmp_path / "model.gguf", name, types=lambda tensor: _type_of(tensor))
    opened = open_model(tmp_path / "model.gguf")
    write_model(opened, tmp_path / "checkpoint")
    export(tmp_path / "checkpoint", tmp_path / "out" / "model.onnx", ExportOptions(logits="all", fallback="none"))
    with torch.no_grad():
        expected = rebuilt(opened)(TOKENS).logits.numpy()
    found = logits(tmp_path / "out" / "model.onnx", TOKENS.numpy())
    np.testing.assert_allclose(found, expected, atol=SAME * np.abs(expected).max())


UNREAD = {
    "gemma4": ("blk.3.attn_k.weight", {}),  # of a layer that has the keys of another one
    "qwen35": ("blk.2.nextn.eh_proj.weight", {"qwen35.block_count": 3, "qwen35.nextn_predict_layers": 1}),
}


@pytest.mark.parametrize("name", UNREAD)
def test_tensors_that_nothing_reads_are_left_out_with_a_note(name, tmp_path):
    tensor, keys = UNREAD[name]
    added = {tensor: (Type.F32, np.ones((64, 128), np.float32))}
    model = write_tiny_model(tmp_path / "model.gguf", name, keys=keys, tensors=added)
    opened = open_model(tmp_path / "model.gguf")
    (note,) = opened.notes
    assert note.startswith(f"left out 1 tensors, such as {tensor}: ")
    assert set(dict(rebuilt(opened).named_parameters())) == set(dict(model.named_parameters()))


def test_a_weight_of_two_tensors_of_two_types_is_refused(tmp_path):
    types = {"blk.0.ffn_gate.weight": Type.Q8_0, "blk.0.ffn_up.weight": Type.Q4_0}
    write_tiny_model(tmp_path / "model.gguf", "granitehybrid", types=lambda tensor: types.get(tensor, Type.F32))
    with pytest.raises(InputError, match=r"shared_mlp.input_linear.weight: one weight .* of types Q8_0, Q4_0"):
        open_model(tmp_path / "model.gguf")


def _type_of(tensor: str) -> Any:
    if "position_embd" in tensor:
        return Type.F16
    return Type.Q4_1 if "attn_q" in tensor else Type.Q5_0 if "ffn_down" in tensor else Type.Q8_0
