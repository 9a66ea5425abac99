"""Directories of models that take pictures or sound too, which other tools quantized: the language model inside."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from dualbinary import InputError
from dualbinary.checkpoint import stored_tensors
from exporter.options import ExportOptions
from exporter.pipeline import export
from importer.checkpoint import write_model
from importer.inspect.source import inspect_source
from importer.readers import open_model
from tests.support import packed_words as slow
from tests.support.foreign_directories import CONFIG, LINEARS, plain_tensors, save
from tests.support.gguf_files import tiny_model
from tests.support.sessions import logits
from tests.support.wrapped_models import wrapped_model

WRAPPED = {"model_type": "llava", "text_config": CONFIG, "vision_config": {"model_type": "clip_vision_model"}}
PICTURES = {
    "vision_tower.encoder.layers.0.q_proj.weight": np.ones((4, 4), np.float16),
    "multi_modal_projector.linear_1.weight": np.ones((64, 4), np.float16),
}
_FORM: dict[str, Any] = {"bits": 4, "group_size": 32}
BLOCKS = {
    "gptq": ("quantization_config", _FORM | {"quant_method": "gptq", "checkpoint_format": "gptq_v2"}),
    "mlx": ("quantization", _FORM),
}


def packed(form: str, module: str, rng: np.random.Generator, N: int, K: int) -> dict[str, np.ndarray]:
    q, zeros = rng.integers(0, 16, (N, K)), np.full((N, K // 32), 8)
    steps = rng.uniform(0.02, 0.04, (N, K // 32)).astype(np.float16)
    if form == "mlx":
        parts = {"weight": slow.dense(q, 4).view(np.uint32), "scales": steps, "biases": -8 * steps}
    else:
        parts = {"qweight": slow.dense(q, 4).T, "qzeros": slow.dense(zeros.T, 4), "scales": steps.T}
        parts["bias"] = np.zeros(N, np.float16)  # as AutoGPTQ writes it
    return {f"{module}.{part}": tensor for part, tensor in parts.items()}


def tensors_of(form: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    tensors = plain_tensors(rng)
    for module, (N, K) in LINEARS.items():
        tensors |= packed(form, module, rng, N, K)
    return tensors


def whole(form: str, prefix: dict[str, str]) -> dict[str, np.ndarray]:
    """The tensors of a whole model: the decoder's under other names, beside packed and plain ones of pictures."""
    named = {
        next(new + name.removeprefix(old) for old, new in prefix.items() if name.startswith(old)): tensor
        for name, tensor in tensors_of(form).items()
    }
    more = packed(form, "vision_tower.encoder.layers.0.k_proj", np.random.default_rng(1), 32, 32)
    return named | PICTURES | more


NAMES = {
    "of old files": {"model.": "language_model.model.", "lm_head.": "language_model.lm_head."},
    "of new files": {"model.": "model.language_model.", "lm_head.": "lm_head."},
}


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("form", BLOCKS)
def test_the_checkpoint_is_that_of_the_decoder(tmp_path, form, names):
    key, block = BLOCKS[form]
    save(tmp_path / "decoder", tensors_of(form), block, key=key)
    save(tmp_path / "whole", whole(form, NAMES[names]), block, key=key, config=WRAPPED)
    for name in ("decoder", "whole"):
        write_model(open_model(tmp_path / name), tmp_path / f"{name}.out")

    files = [(tmp_path / f"{name}.out" / "model.safetensors").read_bytes() for name in ("decoder", "whole")]
    configs = [json.loads((tmp_path / f"{name}.out" / "config.json").read_text()) for name in ("decoder", "whole")]
    assert files[0] == files[1]
    assert {**configs[1], "architectures": None} == {**configs[0], "architectures": None}
    assert any("the language model of a llava alone" in note for note in open_model(tmp_path / "whole").notes)


def test_a_tensor_that_is_there_under_two_names_is_refused(tmp_path):
    key, block = BLOCKS["gptq"]
    twice = {"model.language_model.norm.weight": np.ones(64, np.float16)}
    save(tmp_path / "whole", whole("gptq", NAMES["of old files"]) | twice, block, key=key, config=WRAPPED)
    with pytest.raises(InputError, match=r"are both model\.norm\.weight of the language model; remove one"):
        open_model(tmp_path / "whole")


def test_inspection_counts_the_language_model_alone(tmp_path):
    _, decoder = wrapped_model("gemma3", tmp_path / "whole")
    found = inspect_source(tmp_path / "whole")
    assert found.model_type == "gemma3_text"
    assert sum(kind.weights for kind in found.kinds) == sum(p.numel() for p in decoder.parameters())
    assert any("the language model of a gemma3 alone" in note for note in found.notes)


@pytest.mark.parametrize("name", ["qwen35", "lfm2"])
def test_mlx_turns_convolutions_and_adds_one_to_norms(tmp_path, name):
    """What mlx-lm writes of these types, whose layers differ from transformers' by more than packing."""
    model = tiny_model(name)
    config: dict[str, Any] = model.config.to_dict()
    block: dict[str, Any] = {"bits": 4, "group_size": 32}
    prefix, tensors = "", {}
    if name == "qwen35":
        prefix, config = "language_model.", {"model_type": "qwen3_5", "text_config": config}
    with torch.no_grad():
        for parameter, value in model.named_parameters():
            stored = f"{prefix}{parameter}"
            if ".mlp." not in stored and ".feed_forward." not in stored:
                tensors[stored] = _of_mlx(parameter, value.numpy(), name == "qwen35")
                continue
            module, (N, K) = stored.removesuffix(".weight"), value.shape
            q, steps = _fitted(value.numpy())
            value.copy_(torch.from_numpy(((q - 8.0) * steps.astype(np.float32).repeat(32, axis=1)).reshape(N, K)))
            tensors |= {
                stored: slow.dense(q, 4).view(np.uint32),
                f"{module}.scales": steps,
                f"{module}.biases": -8 * steps,
            }
    save(tmp_path / "source", tensors, block, key="quantization", config=config)

    write_model(open_model(tmp_path / "source"), tmp_path / "checkpoint")
    assert stored_tensors(tmp_path / "checkpoint").keys() >= {"model.embed_tokens.weight"}
    export(tmp_path / "checkpoint", tmp_path / "out" / "model.onnx", ExportOptions(logits="all", embedding_bits=32))

    tokens = np.arange(24)[None] * 7 % 256
    with torch.no_grad():
        wanted = model(torch.from_numpy(tokens)).logits.numpy()
    found = logits(tmp_path / "out" / "model.onnx", tokens, True)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-2 * np.abs(wanted).max())  # other layers are fitted


def _fitted(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    groups = weight.reshape(len(weight), -1, 32)
    steps = (np.abs(groups).max(axis=2) / 7).astype(np.float16)
    q = np.clip(np.round(groups / steps[..., None].astype(np.float32)) + 8, 0, 15)
    return q.reshape(weight.shape).astype(np.uint8), steps


def _of_mlx(name: str, value: np.ndarray, of_qwen: bool) -> np.ndarray:
    if "conv" in name and value.ndim == 3:
        return np.ascontiguousarray(value.swapaxes(1, 2))
    adds_one = name.endswith(("_layernorm.weight", "q_norm.weight", "k_norm.weight", "model.norm.weight"))
    return value + np.float32(1) if adds_one and of_qwen else value
