"""The checkpoint of a calibrated model: bits that it keeps, planes that come back, and the ONNX file made of it."""

import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from calib.models.source import SourceModel
from calib.models.stored_checkpoint import StoredCheckpoint
from calib.save import save_checkpoint
from dualbinary import InputError
from dualbinary.checkpoint import read_quantization_config
from dualbinary.contract.weight import PlaneFormat
from dualbinary.files.json_objects import read_json_object
from exporter.__main__ import main as exporter_main
from tests.support.families import by_kind
from tests.support.sessions import logits
from tests.support.tiny_models import edit_config

LENGTH = 24
FORMAT = PlaneFormat(2, 64, offset=True)
SKIPPED = ("*.down_proj", "model.layers.0.self_attn.q_proj")


@pytest.fixture(scope="module")
def saved(tiny_model, calibrated_blocks, blockwise_config, random_tokens, tmp_path_factory):
    """A tiny model, its blocks trained or its planes fitted alone, and where it was saved; neither is to be changed."""

    @cache
    def run(name: str, dtype: torch.dtype = torch.float32, skip: tuple[str, ...] = (), *, trained: bool = False):
        config = blockwise_config(skip=skip, stages=("init", "block") if trained else ("init",))
        tokens = random_tokens(7, LENGTH) if trained else None
        result = calibrated_blocks(tiny_model(name, dtype), tokens, config=config)
        directory = tmp_path_factory.mktemp("saved") / "checkpoint"
        save_checkpoint(result.source, directory, result.weight)
        return result, directory

    return run


def model_logits(source, tokens: torch.Tensor) -> np.ndarray:
    """Logits [T, V] of the torch model as it stands."""
    with torch.no_grad():
        return source.model(input_ids=tokens, use_cache=False).logits[0].numpy()


def stored_tensors(directory: Path) -> dict[str, torch.Tensor]:
    tensors = {}
    for file in sorted(directory.glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors


def student_logits(result, tokens: torch.Tensor) -> np.ndarray:
    """Logits [T, V] of the torch model with the calibrated planes."""
    result.source.load(result.source.model)
    assert all(layer.quantized for layer in result.source.linears.values())
    return model_logits(result.source, tokens)


# Plain; tied and with biases; joined projections; transposed and joined; interleaved by head and joined.
@pytest.mark.parametrize("name", by_kind(["llama", "llama_tied", "phi3", "gpt2", "bloom", "gemma3_text", "opt"]))
def test_the_exporter_makes_the_same_model_of_it(saved, random_tokens, tmp_path, name):
    result, checkpoint = saved(name, trained=name == "llama")
    out = tmp_path / "onnx" / "model.onnx"
    assert (
        exporter_main([str(checkpoint), str(out), "--embedding-bits", "32", "--logits", "all", "--quiet", "--no-check"])
        == 0
    )

    tokens = random_tokens(1, LENGTH, seed=5)
    wanted, found = student_logits(result, tokens), logits(out, tokens.numpy())[0]

    # Weights are the same numbers, so only float32 arithmetic differs; the kernel keeps 15 bits of a product at least,
    # 2^-15 of its size, in about seven products of each of two blocks, which add up like independent errors:
    # sqrt(14) * 2^-15 = 1.1e-4. The largest of thousands of logits is off by up to four such, and models amplify.
    assert np.abs(found - wanted).max() < 1e-3 * np.abs(wanted).max()


def test_layers_that_were_left_out_are_exported_as_they_are(saved, random_tokens, tmp_path):
    result, checkpoint = saved("llama", skip=SKIPPED)
    out = tmp_path / "onnx" / "model.onnx"
    assert (
        exporter_main([str(checkpoint), str(out), "--embedding-bits", "32", "--logits", "all", "--quiet", "--no-check"])
        == 0
    )
    tokens = random_tokens(1, LENGTH, seed=5)
    wanted, found = student_logits(result, tokens), logits(out, tokens.numpy())[0]
    assert np.abs(found - wanted).max() < 1e-3 * np.abs(wanted).max()  # as above


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_what_is_not_quantized_is_kept_bit_for_bit(saved, tiny_model, dtype):
    result, checkpoint = saved("llama", dtype)

    before, after = load_file(tiny_model("llama", dtype) / "model.safetensors"), stored_tensors(checkpoint)
    linears = {f"{name}.weight" for name in result.source.linears}
    kept = before.keys() - linears
    parts = {f"{name}.{part}" for name in result.source.linears for part in ("planes", "scales")}

    assert after.keys() == kept | parts
    for name in kept:
        assert after[name].dtype == before[name].dtype == dtype
        assert torch.equal(after[name].view(torch.uint8), before[name].view(torch.uint8))
    for name, (planes, scales) in result.layers.items():
        assert torch.equal(after[f"{name}.planes"], planes)
        assert torch.equal(after[f"{name}.scales"], scales)
        assert after[f"{name}.scales"].dtype == torch.float16


def test_config_json_says_what_was_done(saved, tiny_model):
    result, checkpoint = saved("llama", skip=SKIPPED)
    config = read_json_object(checkpoint / "config.json")
    block = config.pop("quantization_config")
    assert config == read_json_object(tiny_model("llama") / "config.json")
    assert (block["method"], block["planes"], block["group_size"], block["has_offset"]) == ("fdb", 2, 64, True)
    kept = set(block["modules_to_not_convert"])
    assert kept == {"lm_head", "model.embed_tokens", *result.source.skipped}
    assert read_quantization_config(checkpoint) is not None


def test_files_beside_the_model_and_the_record_are_copied(tiny_model, calibrated_blocks, blockwise_config, tmp_path):
    directory = Path(shutil.copytree(tiny_model("llama"), tmp_path / "model"))
    contents = {
        "tokenizer.json": '{"a": 1}', "merges.txt": "a b", "chat_template.jinja": "{{ x }}", "tokenizer.model": "spm",
    }  # fmt: skip
    for name, content in contents.items():
        (directory / name).write_text(content)
    (directory / "pytorch_model.bin").write_bytes(b"old weights")
    (tmp_path / "calibration.json").write_text('{"version": 1}')
    result = calibrated_blocks(directory, None, config=blockwise_config(stages=("init",)))

    save_checkpoint(result.source, tmp_path / "checkpoint", result.weight, record=tmp_path / "calibration.json")

    contents["calibration.json"] = '{"version": 1}'
    for name, content in contents.items():
        assert (tmp_path / "checkpoint" / name).read_text() == content
    assert {file.name for file in (tmp_path / "checkpoint").iterdir()} == contents.keys() | {
        "config.json", "generation_config.json", "model.safetensors",
    }  # fmt: skip


def test_a_directory_with_files_in_it_is_left_alone(saved):
    result, checkpoint = saved("llama")
    before = {file.name: file.read_bytes() for file in checkpoint.iterdir()}
    with pytest.raises(InputError, match="exists and is not an empty directory"):
        save_checkpoint(result.source, checkpoint, result.weight)
    assert {file.name: file.read_bytes() for file in checkpoint.iterdir()} == before


def test_a_failure_leaves_nothing(tiny_model, tmp_path):
    source = SourceModel(tiny_model("llama"), FORMAT)

    def fails(name):
        raise RuntimeError(name)

    with pytest.raises(RuntimeError):
        save_checkpoint(source, tmp_path / "out" / "checkpoint", fails)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom"])
def test_a_checkpoint_gives_back_what_was_saved(saved, random_tokens, name):
    result, directory = saved(name, trained=name == "llama")
    wanted = student_logits(result, random_tokens(1, LENGTH))
    source = SourceModel(result.source.directory, FORMAT)
    source.load(source.model)
    checkpoint = StoredCheckpoint(directory)

    checkpoint.apply(source)

    assert checkpoint.format == FORMAT
    for key, layer in source.linears.items():
        assert torch.equal(layer.current_planes(), result.layers[key][0])
        assert torch.equal(layer.scales, result.layers[key][1].float())
        assert layer.quantized
    assert np.array_equal(model_logits(source, random_tokens(1, LENGTH)), wanted)


def test_layers_that_a_checkpoint_left_out_stay_in_full_precision(saved, tiny_model):
    result, directory = saved("llama", skip=SKIPPED)
    source = SourceModel(tiny_model("llama"), FORMAT)
    source.load(source.model)
    StoredCheckpoint(directory).apply(source)
    assert {name for name, layer in source.linears.items() if not layer.quantized} == set(result.source.skipped)


def test_a_checkpoint_of_another_model_is_refused(saved, tiny_model, tmp_path):
    _, directory = saved("llama")
    checkpoint = StoredCheckpoint(directory)
    other = SourceModel(tiny_model("gpt2"), FORMAT)
    with pytest.raises(InputError, match=r"has no planes of transformer\.h\.0\.attn\.c_attn; is it .* another model"):
        checkpoint.apply(other)
    wider = Path(shutil.copytree(tiny_model("llama"), tmp_path / "wider"))
    tensors = load_file(wider / "model.safetensors")
    for name, value in tensors.items():
        if "mlp" in name:
            axis = 1 if "down" in name else 0
            tensors[name] = torch.cat([value, value], axis).contiguous()
    save_file(tensors, wider / "model.safetensors")
    edit_config(wider, intermediate_size=320)
    with pytest.raises(InputError, match=r"model\.layers\.0\.mlp\.gate_proj"):
        StoredCheckpoint(directory).apply(SourceModel(wider, FORMAT))


def rewrite(directory: Path, change) -> None:
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


NAME = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.update({f"{NAME}.planes": t[f"{NAME}.planes"][:1].clone()}),
            r"scales: expected shape",
        ),
        (lambda t: t.update({f"{NAME}.scales": t[f"{NAME}.scales"][:2].clone()}), r"scales \[2, .*expected"),
        (lambda t: t.update({f"{NAME}.planes": t[f"{NAME}.planes"].int()}), "planes"),
        (lambda t: t.update({f"{NAME}.scales": t[f"{NAME}.scales"] * float("nan")}), "is not finite"),
        (lambda t: t.pop(f"{NAME}.scales"), "has planes of .*, but no scales"),
        (lambda t: t.pop(f"{NAME}.planes"), "has no planes of"),
        (lambda t: t.update({f"{NAME}.input_order": torch.arange(128).int()}), "inputs in another order"),
    ],
    ids=["planes", "scales", "dtype", "finite", "scales missing", "planes missing", "input order"],
)
def test_a_damaged_checkpoint_is_refused_by_name(saved, tmp_path, change, message):
    result, checkpoint = saved("llama")
    directory = Path(shutil.copytree(checkpoint, tmp_path / "damaged"))
    rewrite(directory, change)
    with pytest.raises(InputError, match=message) as error:
        StoredCheckpoint(directory).read(NAME, tuple(result.source.linears[NAME].weight.shape))
    assert NAME in str(error.value)


def test_what_is_no_checkpoint_is_refused(tiny_model, tmp_path):
    with pytest.raises(InputError, match=r"has no quantization_config; expected a checkpoint"):
        StoredCheckpoint(tiny_model("llama"))
    with pytest.raises(InputError, match="absent: not a directory"):
        StoredCheckpoint(tmp_path / "absent")


def test_tensors_lie_in_the_order_of_the_model(saved, tiny_model):
    result, directory = saved("llama")
    with safe_open(tiny_model("llama") / "model.safetensors", framework="pt") as file:
        before = list(file.keys())
    wanted = []
    for name in before:
        module = name.removesuffix(".weight")
        wanted += [f"{module}.planes", f"{module}.scales"] if module in result.source.linears else [name]
    with safe_open(directory / "model.safetensors", framework="pt") as file:
        assert sorted(file.keys()) == sorted(wanted)
