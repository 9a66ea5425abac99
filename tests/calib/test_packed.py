"""Checkpoints in transformers: packed in memory, the logits of the dense model, saved again as they were."""

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

import calib  # noqa: F401  # registers the method
from calib.packed.modules import PackedEmbedding, PackedHead, PackedLinear, PackedWeight
from calib.packed.quantizer import DualBinaryConfig
from dualbinary import InputError
from dualbinary.checkpoint import PER_CHANNEL
from dualbinary.contract.scale_codes import BFLOAT16
from dualbinary.contract.weight import EACH_GROUP, PlaneFormat
from exporter.options import ExportOptions
from exporter.pipeline import export
from tests.support.quantized_checkpoints import quantize
from tests.support.tiny_models import edit_config
from tests.support.tiny_tokenizers import write_tokenizer

EVEN = PlaneFormat(4, 32, levels="even", zero=EACH_GROUP)
LAYER, OTHER = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"
# Every form that a checkpoint can have: by name, the model and the arguments of `quantize`.
FORMS = {
    "free": ("llama", {}),
    "conv1d": ("gpt2", {}),
    "biases, tied": ("llama_tied", {}),
    "skipped layer": ("llama", {"skip": (OTHER,)}),
    "codes of scales": ("llama", {"scale_dtype": np.uint8}),
    "a group a row": ("llama", {"form": PlaneFormat(3, PER_CHANNEL, levels="even", zero=3.5, per_tensor=True)}),
    "bfloat16 scales": ("llama", {"form": PlaneFormat(4, 16, levels="even", offset=True, scale_dtype=BFLOAT16)}),
    "mixed": ("llama", {"overrides": {LAYER: EVEN, OTHER: PlaneFormat(1, 64, offset=True, levels="symmetric")}}),
    "rotated": ("llama", {"block_sizes": {LAYER: 64, OTHER: 32}}),
    "tied table": ("llama_tied", {"tables": {"model.embed_tokens": EVEN}, "block_sizes": {"model.embed_tokens": 64}}),
    "tables": ("llama", {"tables": {"model.embed_tokens": EVEN, "lm_head": PlaneFormat(2, 32, offset=True)}}),
    "scaled table": ("gemma3_text", {"tables": {"model.embed_tokens": EVEN}}),
}


@pytest.fixture(scope="module")
def checkpoint(tiny_model, tmp_path_factory):
    """A checkpoint of one of FORMS, and the dense model with the weights that it stands for; made once."""
    made = {}

    def get(name):
        if name not in made:
            kind, arguments = FORMS[name]
            directory = tmp_path_factory.mktemp("checkpoint")
            weights = quantize(tiny_model(kind), directory, **arguments)
            dense = AutoModelForCausalLM.from_pretrained(tiny_model(kind), dtype=torch.float32)
            with torch.no_grad():
                for module, values in weights.items():
                    prefix = "" if module in dict(dense.named_modules()) else f"{dense.base_model_prefix}."
                    parameter = dense.get_parameter(f"{prefix}{module}.weight")
                    weight = torch.from_numpy(np.asarray(values, np.float32))
                    parameter.copy_(weight.T if kind == "gpt2" else weight)
            made[name] = directory, dense
        return made[name]

    return get


def load(directory, **options) -> Any:
    return AutoModelForCausalLM.from_pretrained(directory, **{"dtype": torch.float32, **options})


def logits(model, tokens):
    with torch.no_grad():
        return model(tokens).logits


def bound(expected):
    """How far logits may be: the same products, of weights and rotations that are rounded to float32 once.

    A sum of K = 160 terms gathers about sqrt(K) = 13 roundings, and a token goes through four to five products in a
    row whose errors add up: 64 roundings of the largest logit.
    """
    return 64 * torch.finfo(torch.float32).eps * expected.abs().max()


def packed(model):
    return [module for module in model.modules() if isinstance(module, PackedWeight)]


def packed_bytes(model):
    return sum(each.planes.nbytes + each.scales.nbytes for each in packed(model))


@pytest.mark.parametrize("name", FORMS)
def test_logits_are_those_of_the_dense_model_and_tensors_those_of_the_file(checkpoint, random_tokens, name):
    directory, dense = checkpoint(name)
    model = load(directory)
    tokens = random_tokens(2, 12)

    expected = logits(dense, tokens)

    assert (logits(model, tokens) - expected).abs().max() <= bound(expected)
    stored = load_file(directory / "model.safetensors")
    assert packed_bytes(model) == sum(
        each.nbytes for key, each in stored.items() if key.endswith((".planes", ".scales"))
    )
    assert not any(
        each.is_floating_point()
        for module in packed(model)
        for each in module.parameters(recurse=False)
        if each.dim() > 1
    )


@pytest.mark.parametrize("name", FORMS)
def test_saved_again_a_checkpoint_is_what_it_was(checkpoint, tmp_path, name):
    directory, _ = checkpoint(name)

    load(directory, dtype=torch.bfloat16).save_pretrained(tmp_path)

    before, after = (load_file(each / "model.safetensors") for each in (directory, tmp_path))
    assert before.keys() == after.keys()
    for key, tensor in before.items():
        same = tensor if key.endswith((".planes", ".scales", ".rotation_signs")) else tensor.bfloat16()
        assert torch.equal(after[key], same), key
    blocks = [json.loads((each / "config.json").read_text())["quantization_config"] for each in (directory, tmp_path)]
    assert blocks[0] == blocks[1]


@pytest.mark.parametrize("name", ["mixed", "rotated", "conv1d", "scaled table", "tied table"])
def test_a_dequantized_model_is_an_ordinary_one(checkpoint, random_tokens, tmp_path, name):
    directory, dense = checkpoint(name)

    load(directory).dequantize().save_pretrained(tmp_path)

    again = load(tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    assert not any(isinstance(each, PackedWeight | PackedHead) for each in again.modules())
    expected = logits(dense, random_tokens(1, 9))
    assert (logits(again, random_tokens(1, 9)) - expected).abs().max() <= bound(expected)


def test_an_order_of_inputs_is_followed(checkpoint, random_tokens, tmp_path):
    directory, dense = checkpoint("mixed")
    tensors = load_file(directory / "model.safetensors")
    order = torch.randperm(128, generator=torch.Generator().manual_seed(0))
    tensors[f"{LAYER}.input_order"] = order.int()
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text((directory / "config.json").read_text())
    edit_config(
        tmp_path,
        quantization_config={
            **json.loads((directory / "config.json").read_text())["quantization_config"],
            "format_version": 3,
        },
    )
    weight = dense.get_parameter(f"{LAYER}.weight")
    kept = weight.detach().clone()
    try:
        with torch.no_grad():
            weight[:, order] = kept
        expected = logits(dense, random_tokens(1, 9))
    finally:
        with torch.no_grad():
            weight.copy_(kept)

    model = load(tmp_path)

    assert (logits(model, random_tokens(1, 9)) - expected).abs().max() <= bound(expected)
    assert (logits(model.dequantize(), random_tokens(1, 9)) - expected).abs().max() <= bound(expected)


def test_tables_are_packed_and_a_tied_head_has_no_tensors(checkpoint):
    tied = load(checkpoint("tied table")[0])
    assert isinstance(tied.model.embed_tokens, PackedEmbedding)
    assert isinstance(tied.lm_head, PackedHead)
    assert not [key for key in tied.state_dict() if key.startswith("lm_head")]
    tied.tie_weights()  # as Trainer and peft call it
    separate = load(checkpoint("tables")[0])
    assert isinstance(separate.lm_head, PackedLinear)


@pytest.mark.parametrize("options", [{"device_map": "cpu"}, {"device_map": "auto"}, {"dtype": "auto"}])
def test_ways_to_load(checkpoint, random_tokens, options):
    directory, dense = checkpoint("mixed")
    model = load(directory, **options)
    assert logits(model, random_tokens(1, 9)).argmax(-1).equal(logits(dense, random_tokens(1, 9)).argmax(-1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_type_is_of_products_and_other_tensors_and_not_of_scales(checkpoint, random_tokens, dtype):
    directory, dense = checkpoint("tied table")
    scales = load_file(directory / "model.safetensors")["model.embed_tokens.scales"]
    tokens = random_tokens(1, 9)
    moved = load(directory).to(dtype)
    loaded = load(directory, dtype=dtype)
    assert loaded.dtype == moved.dtype == dtype
    for model in (moved, loaded):
        assert torch.equal(model.model.embed_tokens.scales, scales)
        expected, found = logits(dense, tokens), logits(model, tokens)
        assert found.dtype == dtype
        # Every weight, hidden state and sum is rounded once to this type: some ten roundings in a row for a token.
        assert (found.float() - expected).abs().max() <= 16 * torch.finfo(dtype).eps * expected.abs().max()


def test_pipeline_writes_the_tokens_of_the_dense_model(checkpoint, tmp_path):
    directory, dense = checkpoint("mixed")
    write_tokenizer(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    texts = [
        pipeline("text-generation", model=model, tokenizer=tokenizer)("two bits", max_new_tokens=8, do_sample=False)
        for model in (load(directory), dense)
    ]
    assert texts[0] == texts[1]


def test_importing_calib_imports_neither_torch_nor_transformers(checkpoint):
    directory, _ = checkpoint("free")
    script = (
        "import sys, calib\n"
        "assert not {'torch', 'transformers', 'safetensors'} & set(sys.modules), 'not light'\n"
        "from transformers import AutoModelForCausalLM\n"
        f"model = AutoModelForCausalLM.from_pretrained({str(directory)!r})\n"
        "print(type(model.model.layers[0].mlp.down_proj).__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "PackedLinear"


def test_what_cannot_be_done_is_said(checkpoint, tiny_model, tmp_path):
    directory, _ = checkpoint("free")
    block = json.loads((directory / "config.json").read_text())["quantization_config"]
    with pytest.raises(InputError, match=r"does not quantize while it loads; `dualbinary quantize"):
        load(tiny_model("llama"), quantization_config=DualBinaryConfig(**block))
    with pytest.raises(InputError, match=r"quantization_config\.planes: expected an integer from 1 to 8, got 9"):
        DualBinaryConfig(**{**block, "planes": 9})
    assert not load(directory).hf_quantizer.is_trainable
    with pytest.raises(TypeError, match="PackedEmbedding"):
        load(checkpoint("tied table")[0]).resize_token_embeddings(300)


@pytest.mark.parametrize("change", ["missing", "experts", "shape"])
def test_tensors_that_do_not_fit_are_named(checkpoint, tmp_path, change):
    directory, _ = checkpoint("free")
    tensors = load_file(directory / "model.safetensors")
    if change == "missing":
        del tensors[f"{LAYER}.scales"]
        expected = rf"{LAYER}\.scales: missing"
    elif change == "shape":
        tensors[f"{LAYER}.planes"] = tensors[f"{LAYER}.planes"][:, :-1].contiguous()
        expected = rf"{LAYER}\.planes: expected U8"
    else:
        tensors["model.layers.0.mlp.experts.3.up_proj.planes"] = tensors[f"{LAYER}.planes"].clone()
        expected = r"experts\.3\.up_proj\.planes: the LlamaForCausalLM .* has no layer .* `dualbinary export`"
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text((directory / "config.json").read_text())
    with pytest.raises(InputError, match=expected):
        load(tmp_path)


def test_an_export_of_what_was_saved_is_that_of_the_checkpoint(checkpoint, tmp_path):
    directory, _ = checkpoint("mixed")
    load(directory).save_pretrained(tmp_path / "saved")
    data = []
    for source in (directory, tmp_path / "saved"):
        out = tmp_path / source.name / "out" / "model.onnx"
        export(source, out, ExportOptions())
        data.append((out.parent / f"{out.name}.data").read_bytes())
    assert data[0] == data[1]
