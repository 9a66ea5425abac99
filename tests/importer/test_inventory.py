"""The inventory of readers, and directories that none of them takes."""

import numpy as np
import pytest

from dualbinary import InputError
from importer.checkpoint import write_model
from importer.readers import READERS, open_model
from tests.support.foreign_directories import CONFIG, plain_tensors, save

CONFIGS = {
    "gptq": {"quantization_config": {"quant_method": "gptq"}},
    "awq": {"quantization_config": {"quant_method": "awq"}},
    "auto-round": {"quantization_config": {"quant_method": "auto-round"}},
    "compressed-tensors": {"quantization_config": {"quant_method": "compressed-tensors"}},
    "mlx with rotated inputs": {"model_type": "prism_hadamard_qwen35", "quantization": {"bits": 2}},
    "mlx": {"quantization": {"bits": 4}, "quantization_config": {"bits": 4}},
    "bitnet": {"quantization_config": {"quant_method": "bitnet"}},
    "gemma": {"quantization_config": {"quant_method": "gemma"}},
    "hqq": {"quantization_config": {"quant_method": "hqq"}},
    "bitsandbytes": {"quantization_config": {"quant_method": "bitsandbytes"}},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_one_reader_takes_a_directory(name, tmp_path):
    assert [reader.name for reader in READERS if reader.recognises(tmp_path, CONFIGS[name])] == [name]


def test_no_reader_takes_a_plain_directory(tmp_path):
    assert not any(reader.recognises(tmp_path, {"model_type": "llama"}) for reader in READERS)


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("aqlm", "AQLM"), ("vptq", "VPTQ"), ("exl3", "EXL3"), ("fp8", "FP8 blocks"), ("mxfp4", "MXFP4"),
        ("nvfp4", "NVFP4"), ("quanto", "quanto"), ("torchao", "torchao"), ("something", "a method that this release"),
        (None, "a method that this release"),
    ],
)  # fmt: skip
def test_a_method_without_a_reader_is_refused_by_name(method, name, tmp_path):
    save(tmp_path, plain_tensors(np.random.default_rng(1)), {"quant_method": method})
    with pytest.raises(
        InputError, match=rf"\({name}.*; give the full-precision model; this release reads gguf, gptq, awq"
    ):
        open_model(tmp_path)


ROTATED = {
    "GPTQ": {"quant_method": "gptq", "bits": 4, "group_size": 32, "rotation": "hadamard"},
    "AWQ": {"quant_method": "awq", "bits": 4, "group_size": 32, "rotation_config": {"kind": "x"}},
    "AutoRound": {"quant_method": "auto-round", "bits": 4, "group_size": 32, "rotation_config": {"kind": "x"}},
    "compressed-tensors": {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "transform_config": {"config_groups": {"R1": {"type": "hadamard"}}},
    },
    "HQQ": {"quant_method": "hqq", "quant_config": {}, "quarot": True},
    "bitsandbytes": {"quant_method": "bitsandbytes", "load_in_8bit": True, "spinquant": True},
    "MLX": {"quant_method": "metal", "bits": 4, "group_size": 32, "rotation": {"block": 64}},
    "BitNet": {"quant_method": "bitnet", "online_hadamard": True},
}


@pytest.mark.parametrize("form", ROTATED)
def test_a_declared_rotation_is_refused_by_name(form, tmp_path):
    save(tmp_path, plain_tensors(np.random.default_rng(1)), ROTATED[form])
    with pytest.raises(InputError, match=r"the model computes more than its weights say.*give .*"):
        open_model(tmp_path)


def test_a_rotation_of_the_whole_model_is_refused(tmp_path):
    block = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    save(tmp_path, plain_tensors(np.random.default_rng(1)), block, config=CONFIG | {"quarot_config": {"r1": True}})
    with pytest.raises(InputError, match=r"config.json: quarot_config: the model computes more than its weights say"):
        open_model(tmp_path)


@pytest.mark.parametrize("part", ["qweight", "weight_packed", "blocks"])
def test_packed_tensors_without_a_block_are_refused(part, tmp_path):
    tensors = plain_tensors(np.random.default_rng(1)) | {f"model.layers.0.mlp.up_proj.{part}": np.ones(4, np.int32)}
    save(tmp_path, tensors, None)
    with pytest.raises(InputError, match=f"up_proj.{part} is part of a packed weight, but config.json has no"):
        open_model(tmp_path)


@pytest.mark.parametrize("buffers", [{}, {"transformer.h.0.attn.bias": np.ones((1, 1, 8, 8), bool)}])
def test_a_plain_directory_needs_no_import(buffers, tmp_path):
    save(tmp_path, plain_tensors(np.random.default_rng(1)) | buffers, None)
    with pytest.raises(InputError, match="nothing says that another tool quantized it"):
        open_model(tmp_path)


def test_pickled_tensors_are_not_read(tmp_path):
    save(tmp_path, plain_tensors(np.random.default_rng(1)), None)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="its tensors are pickled, which is not read"):
        open_model(tmp_path)


def test_tokenizer_files_and_chat_templates_come_along(tmp_path):
    block = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    module = "model.layers.0.self_attn.q_proj"
    tensors = plain_tensors(np.random.default_rng(1))
    tensors |= {f"{module}.weight": np.ones((4, 32), np.int8), f"{module}.SCB": np.ones(4, np.float32)}
    save(tmp_path / "source", tensors, block, files=["tokenizer.json", "generation_config.json", "notes.json"])
    (tmp_path / "source" / "additional_chat_templates").mkdir()
    (tmp_path / "source" / "additional_chat_templates" / "rag.jinja").write_text("{{ messages }}")
    write_model(open_model(tmp_path / "source"), tmp_path / "checkpoint")
    found = {str(path.relative_to(tmp_path / "checkpoint")) for path in (tmp_path / "checkpoint").rglob("*.j*")}
    assert found == {"config.json", "tokenizer.json", "generation_config.json", "additional_chat_templates/rag.jinja"}
