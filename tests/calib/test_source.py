"""A model directory opened module by module: the same model as transformers', and what is refused."""

import gc
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaMLP
from transformers.pytorch_utils import Conv1D

from calib.layers import QuantLinear, quant_linears
from calib.models.source import SourceModel, decoder_blocks
from calib.save import save_checkpoint
from dualbinary import InputError
from dualbinary.contract.weight import PlaneFormat, PlaneWeight
from tests.support.tiny_models import CONFIGS, NOT_CALIBRATED, STACKED, edit_config, make_model

FORMAT = PlaneFormat(2, 64, offset=True)
LENGTH = 24  # longer than the sliding window of the tiny models

TAKEN = [name for name in CONFIGS if name not in NOT_CALIBRATED]


def reference(directory: Path):
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


def loaded(directory: Path, skip: tuple[str, ...] = ()) -> SourceModel:
    source = SourceModel(directory, FORMAT, skip)
    source.load(source.model)
    return source


@torch.no_grad()
def logits(model, tokens):
    return model(input_ids=tokens, use_cache=False).logits


def head(model) -> torch.Tensor:
    return model.get_output_embeddings().weight


def embedding(model) -> torch.Tensor:
    return model.get_input_embeddings().weight


@pytest.fixture
def private(tiny_model, tmp_path):
    """A copy of a tiny model directory by name, free to be damaged."""

    def get(name: str) -> Path:
        return Path(shutil.copytree(tiny_model(name), tmp_path / name))

    return get


@pytest.mark.parametrize("name", TAKEN)
def test_loaded_it_is_the_model_of_transformers(tiny_model, random_tokens, name):
    source = SourceModel(tiny_model(name), FORMAT)
    assert {parameter.device.type for parameter in source.model.parameters()} == {"meta"}

    source.load(source.model)

    # The same operations on the same weights in the same order: equal bit for bit.
    tokens = random_tokens(2, LENGTH)
    assert torch.equal(logits(source.model, tokens), logits(reference(tiny_model(name)), tokens))


@pytest.mark.parametrize("name", TAKEN)
def test_linears_are_those_of_the_blocks_by_their_stored_names(tiny_model, name):
    directory = tiny_model(name)
    source = loaded(directory)
    stored = load_file(directory / "model.safetensors")
    expected = {}
    for block_name, block in decoder_blocks(reference(directory)):
        for path, module in block.named_modules():
            if isinstance(module, nn.Linear):
                expected[f"{block_name}.{path}"] = module.weight
            elif isinstance(module, Conv1D):
                expected[f"{block_name}.{path}"] = module.weight.T
    # transformers may leave the base model's prefix out of the names in the files.
    prefix = f"{source.model.base_model_prefix}."
    names = {key if f"{key}.weight" in stored else key.removeprefix(prefix): key for key in expected}

    assert list(source.linears) == list(names)
    assert [layer.name for layer in quant_linears(source.model)] == list(names)
    for key, layer in source.linears.items():
        assert f"{key}.weight" in stored
        assert torch.equal(layer.weight, expected[names[key]])
    assert not source.skipped


def test_weights_of_gpt2_are_turned(tiny_model):
    directory = tiny_model("gpt2")
    stored = load_file(directory / "model.safetensors")
    layer = loaded(directory).linears["transformer.h.1.attn.c_attn"]

    assert (layer.in_features, layer.out_features) == (128, 384)
    assert torch.equal(layer.weight, stored["transformer.h.1.attn.c_attn.weight"].T)
    assert layer.weight.is_contiguous()


def test_blocks_are_loaded_and_emptied_one_by_one(tiny_model):
    source = SourceModel(tiny_model("llama"), FORMAT)
    blocks = [block for _, block in source.blocks]
    outside = [module for _, module in source.outside()]

    source.load(blocks[1])
    devices = [{parameter.device.type for parameter in module.parameters()} for module in (*blocks, *outside)]
    assert devices == [{"meta"}, {"cpu"}, {"meta"}, {"meta"}, {"meta"}]

    source.unload(blocks[1])
    assert {parameter.device.type for parameter in source.model.parameters()} == {"meta"}


def test_outside_and_blocks_are_all_of_the_model(tiny_model):
    for name in ("llama_tied", "opt", "bloom", "gpt2"):
        source = SourceModel(tiny_model(name), FORMAT)
        inside = {id(p) for _, block in source.blocks for p in block.parameters()}
        outside = {id(p) for _, module in source.outside() for p in module.parameters(recurse=False)}
        assert inside.isdisjoint(outside)
        assert inside | outside == {id(p) for p in source.model.parameters()}


def test_unloading_gives_back_memory_and_what_was_chosen(tiny_model, random_tokens):
    source = loaded(tiny_model("llama"))
    before = logits(source.model, random_tokens(1, 8))
    layer = next(iter(source.linears.values()))
    layer.set_scales(torch.ones(3, layer.out_features, 2))
    layer.set_latent(layer.weight)
    layer.quantized = True

    source.unload(source.model)

    gc.collect()
    assert {parameter.device.type for parameter in source.model.parameters()} == {"meta"}
    assert layer.scales is None
    assert layer.latent is None
    source.load(source.model)  # as if nothing had been
    assert torch.equal(logits(source.model, random_tokens(1, 8)), before)


def test_dtype_of_the_linears_may_be_another_one(tiny_model):
    source = SourceModel(tiny_model("llama"), FORMAT)
    source.load(source.model, linear_dtype=torch.bfloat16)
    kinds = {name: parameter.dtype for name, parameter in source.model.named_parameters()}
    linears = {f"{name}.weight" for name in source.linears}

    assert {name for name, kind in kinds.items() if kind == torch.bfloat16} == linears
    assert set(kinds.values()) == {torch.bfloat16, torch.float32}


@pytest.mark.parametrize("name", ["llama_tied", "gemma", "opt", "bloom", "gpt2"])
def test_a_tied_head_is_the_embedding(tiny_model, name):
    source = loaded(tiny_model(name))
    assert head(source.model) is embedding(source.model)
    source.unload(source.model)
    source.load(source.model)
    assert head(source.model) is embedding(source.model)


def test_a_tensor_is_read_once_for_all_that_are_tied_to_it(tiny_model, monkeypatch):
    """Embeddings are large; a second copy would be the most that a run ever holds."""
    names, read = [], SourceModel.read
    monkeypatch.setattr(SourceModel, "read", lambda self, name, *rest: (names.append(name), read(self, name, *rest))[1])
    source = loaded(tiny_model("llama_tied"))
    assert sorted(names) == sorted(source.tensors)


def test_a_head_of_its_own_is_not_tied(tiny_model):
    source = loaded(tiny_model("llama"))
    assert not torch.equal(head(source.model), embedding(source.model))


def test_shards_are_read_as_one_file_is(tiny_model, tmp_path, random_tokens):
    sharded = make_model("llama", tmp_path / "sharded", shards=4)
    assert (sharded / "model.safetensors.index.json").exists()
    tokens = random_tokens(1, 8)
    assert torch.equal(logits(loaded(sharded).model, tokens), logits(loaded(tiny_model("llama")).model, tokens))


def test_what_a_pattern_of_skip_matches_stays_a_linear_layer(tiny_model, random_tokens):
    directory = tiny_model("llama")
    source = loaded(directory, ("*.down_proj", "model.layers.0.self_attn.?_proj"))

    assert sorted(source.skipped) == sorted(
        ["model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"]
        + [f"model.layers.0.self_attn.{which}_proj" for which in "kqvo"]
    )
    assert not set(source.skipped) & set(source.linears)
    assert len(source.skipped) + len(source.linears) == 14
    for name in source.skipped:
        assert type(source.model.get_submodule(name)) is nn.Linear
    for name in source.linears:
        assert type(source.model.get_submodule(name)) is QuantLinear
    tokens = random_tokens(1, 8)
    assert torch.equal(logits(source.model, tokens), logits(reference(directory), tokens))


def test_a_pattern_that_matches_nothing_is_refused(tiny_model):
    with pytest.raises(InputError, match=r"--skip \*\.up_prj: matches no module.*model\.layers\.0"):
        SourceModel(tiny_model("llama"), FORMAT, ("*.up_proj", "*.up_prj"))
    with pytest.raises(InputError, match="--skip lm_head"):  # never quantized, so there is nothing to leave out
        SourceModel(tiny_model("llama"), FORMAT, ("lm_head",))


def test_skipping_everything_is_refused(tiny_model):
    with pytest.raises(InputError, match="no linear layer is left"):
        SourceModel(tiny_model("llama"), FORMAT, ("*",))


@pytest.mark.parametrize("name", [name for name in NOT_CALIBRATED if name not in STACKED])
def test_models_whose_tensors_are_rearranged_are_refused_by_type(tiny_model, name):
    with pytest.raises(InputError, match=rf"no tensor is stored for .*as {name} may be.*python -m exporter"):
        SourceModel(tiny_model(name), FORMAT)


def saved(directory: Path, model_type: str, **values) -> Path:
    """A small random model of an architecture that the exporter does not know."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 256, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 16}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0}
    config = transformers.AutoConfig.for_model(model_type, **sizes, **heads, **values)
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    return directory


def test_stacked_experts_are_refused_with_a_pattern_that_keeps_them(tmp_path, random_tokens):
    directory = saved(tmp_path / "gpt_oss", "gpt_oss", num_local_experts=4, num_experts_per_tok=2)
    skip: tuple[str, ...] = ()
    for name in ("gate_up_proj", "down_proj"):
        message = rf"layers\.0\.mlp\.experts\.{name}: \[4, \d+, \d+\].*experts.*--skip '\*\.experts\.{name}'"
        with pytest.raises(InputError, match=message):
            SourceModel(directory, FORMAT, skip)
        skip += (f"*.experts.{name}",)

    source = loaded(directory, skip)

    assert {name.rsplit(".", 1)[1] for name in source.linears} == {"q_proj", "k_proj", "v_proj", "o_proj"}
    tokens = random_tokens(1, 8)
    assert torch.equal(logits(source.model, tokens), logits(reference(directory), tokens))


def test_buffers_that_the_files_hold_are_read(tmp_path, random_tokens):
    """Apertus stores constants of its activation."""
    directory = saved(tmp_path / "apertus", "apertus")
    tensors = load_file(directory / "model.safetensors")
    name = "model.layers.1.mlp.act_fn.beta"
    save_file(tensors | {name: tensors[name] + 1}, directory / "model.safetensors", metadata={"format": "pt"})

    source = loaded(directory)

    assert source.model.get_buffer(name) == tensors[name] + 1
    tokens = random_tokens(1, 8)
    assert torch.equal(logits(source.model, tokens), logits(reference(directory), tokens))


class SharedMLP(LlamaMLP):
    """One matrix for both of the outer products."""

    def __init__(self, config):
        super().__init__(config)
        self.up_proj = self.gate_proj


def test_a_layer_that_a_block_uses_twice_is_refused_by_name(tiny_model, monkeypatch):
    monkeypatch.setattr("transformers.models.llama.modeling_llama.LlamaMLP", SharedMLP)
    with pytest.raises(
        InputError, match=r"layers\.0\.mlp\.up_proj: shares its weight with model\.layers\.0\.mlp\.gate"
    ):
        SourceModel(tiny_model("llama"), FORMAT)

    source = SourceModel(tiny_model("llama"), FORMAT, ("*.gate_proj", "*.up_proj"))
    assert len(source.linears) == 10


def test_a_block_that_a_model_uses_twice_is_refused_by_name(tiny_model, monkeypatch):
    original = transformers.LlamaModel.__init__

    def init(self, config):
        original(self, config)
        self.layers[1] = self.layers[0]

    monkeypatch.setattr(transformers.LlamaModel, "__init__", init)
    with pytest.raises(InputError, match=r"model\.layers\.1\.\S+: shares its weight with model\.layers\.0"):
        SourceModel(tiny_model("llama"), FORMAT)


def test_a_checkpoint_is_refused(tiny_model, tmp_path):
    source = SourceModel(tiny_model("llama"), FORMAT)

    def quantized(name):
        N, K = source.linears[name].weight.shape
        planes, scales = FORMAT.shapes(N, K)
        return PlaneWeight(np.zeros(planes, np.uint8), np.zeros(scales, np.float16), K, FORMAT)

    save_checkpoint(source, tmp_path / "checkpoint", quantized)
    with pytest.raises(InputError, match="already a dualbinary checkpoint; give the full-precision model"):
        SourceModel(tmp_path / "checkpoint", FORMAT)


def test_a_shape_that_config_json_does_not_expect_is_refused(private):
    directory = private("llama")
    edit_config(directory, intermediate_size=192)
    with pytest.raises(InputError, match=r"gate_proj\.weight is \[160, 128\], expected \[192, 128\] from config\.json"):
        SourceModel(directory, FORMAT)


def test_a_missing_tensor_is_refused(private):
    file = private("llama") / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, file)
    with pytest.raises(InputError, match=r"no tensor is stored for model\.layers\.1\.mlp\.up_proj\.weight"):
        SourceModel(file.parent, FORMAT)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "nonsense"}, "transformers cannot build a causal language model"),
        ({"model_type": None}, "transformers cannot build a causal language model"),
        ({"model_type": "t5"}, "transformers cannot build a causal language model"),
        ({"model_type": "mine", "auto_map": {"AutoConfig": "m.C", "AutoModelForCausalLM": "m.M"}}, "cannot build"),
        ({"num_attention_heads": 0}, "transformers cannot build a causal language model"),
        ({"quantization_config": {"quant_method": "gptq"}}, "already quantized with .*gptq"),
    ],
    ids=str,
)
def test_a_configuration_without_a_model_is_refused(private, changes, message):
    directory = private("llama")
    edit_config(directory, **changes)
    with pytest.raises(InputError, match=message):
        SourceModel(directory, FORMAT)


def test_a_path_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(InputError, match="absent: not a directory"):
        SourceModel(tmp_path / "absent", FORMAT)
    with pytest.raises(InputError, match=r"config\.json: missing"):
        SourceModel(tmp_path, FORMAT)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(InputError, match=r"model\.safetensors: missing"):
        SourceModel(tmp_path, FORMAT)
