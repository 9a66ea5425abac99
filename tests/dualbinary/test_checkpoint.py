import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualbinary import InputError
from dualbinary.checkpoint import (
    FORMAT_VERSION,
    METHODS,
    PER_CHANNEL,
    QuantizationConfig,
    StoredTensor,
    check_modules,
    load_module,
    read_quantization_config,
    stored_tensors,
    write_checkpoint,
)
from dualbinary.fitting.closed_form import fit

CONFIG = QuantizationConfig("fit", planes=2, group_size=64, has_offset=True, modules_to_not_convert=("lm_head",))
LINEARS = {"layers.0.q_proj": (6, 100), "lm_head": (5, 64)}


def tensors():
    weight = np.random.default_rng(0).standard_normal((6, 100))
    fitted = fit(weight, CONFIG.plane_format).weight
    return {
        "layers.0.q_proj.planes": fitted.planes,
        "layers.0.q_proj.scales": fitted.scales,
        "lm_head.weight": np.ones((5, 64), np.float32),
        "norm.weight": np.ones(100, np.float16),
    }


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "checkpoint"
    write_checkpoint(path, {"model_type": "llama"}, CONFIG, tensors().items())
    return path


def block(**changes):
    return {**CONFIG.to_dict(), **changes}


@given(
    st.builds(
        QuantizationConfig,
        method=st.sampled_from(METHODS),
        planes=st.integers(1, 8),
        group_size=st.just(PER_CHANNEL) | st.integers(1, 100).map(lambda multiple: 32 * multiple),
        has_offset=st.booleans(),
        modules_to_not_convert=st.lists(st.text(min_size=1), max_size=3).map(tuple),
    )
)
def test_config_through_json_comes_back(config):
    assert QuantizationConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (block(quant_method="gptq"), r'quant_method: expected "dualbinary", got "gptq"'),
        (block(format_version=FORMAT_VERSION + 1), "format_version: 5 is newer than 4.*upgrade"),
        (block(format_version=0), "format_version: expected 1, 2, 3 or 4, got 0"),
        (block(format_version="1"), 'format_version: expected 1, 2, 3 or 4, got "1"'),
        (block(format_version=True), "format_version: expected 1, 2, 3 or 4, got true"),
        (block(method="magic"), 'method: expected one of fdb, fit, imported, qbb, got "magic"'),
        (block(method=["fit"]), "method: expected one of"),
        (block(planes=0), "planes: expected an integer from 1 to 8, got 0"),
        (block(planes=9), "planes: .* got 9"),
        (block(planes=2.0), "planes: .* got 2.0"),
        (block(planes=True), "planes: .* got true"),
        (block(group_size=0), "group_size: expected a positive multiple of 32, or -1 for one group per output, got 0"),
        (block(group_size=-1), "group_size: expected a positive multiple of 32 in format_version 1, got -1"),
        (block(group_size=-32), "group_size"),
        (block(group_size=48), "group_size: .* got 48"),
        (block(group_size=None), "group_size: .* got null"),
        (block(has_offset=1), "has_offset: expected true or false, got 1"),
        (block(modules_to_not_convert="lm_head"), "modules_to_not_convert: expected a list"),
        (block(modules_to_not_convert=[""]), "modules_to_not_convert"),
        (block(modules_to_not_convert=[7]), "modules_to_not_convert"),
        (block(bits=2), "bits: unknown key"),
        ({key: value for key, value in block().items() if key != "planes"}, "planes: missing"),
        ([], "quantization_config: expected an object"),
        (block(method="x" * 1000), r"\.\.\.$"),
    ],
)
def test_config_that_is_wrong_is_refused_by_key(wrong, message):
    with pytest.raises(InputError, match=message):
        QuantizationConfig.from_dict(wrong)


def test_only_what_needs_it_is_written_in_the_second_version():
    assert CONFIG.to_dict()["format_version"] == 1
    assert replace(CONFIG, group_size=PER_CHANNEL).to_dict()["format_version"] == 2
    assert QuantizationConfig.from_dict(block(format_version=2)) == CONFIG


@pytest.mark.parametrize(("k", "padded"), [(1, 32), (32, 32), (33, 64), (100, 128)])
def test_a_group_a_row_is_as_long_as_the_padded_row(tmp_path, k, padded):
    config = replace(CONFIG, group_size=PER_CHANNEL)
    assert config.plane_format.for_inputs(k).group_size == padded
    assert config.plane_format.shapes(6, k) == ([2, 6, padded // 8], [3, 6, 1])
    planes, scales = np.zeros((2, 6, padded // 8), np.uint8), np.ones((3, 6, 1), np.float16)
    arrays = {"m.planes": planes, "m.scales": scales, "lm_head.weight": np.zeros((2, 2), np.float32)}
    write_checkpoint(tmp_path / "c", {}, config, arrays.items())
    assert read_quantization_config(tmp_path / "c") == config
    stored = stored_tensors(tmp_path / "c")
    check_modules(config, stored, {"m": (6, k)})
    np.testing.assert_array_equal(load_module(stored, "m", 6, k, config.plane_format).scales, scales)


@pytest.mark.parametrize("shard_bytes", [1 << 30, 600, 1])
def test_checkpoint_written_and_read_is_the_same(tmp_path, shard_bytes):
    path = tmp_path / "new" / "checkpoint"
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text("{}")
    write_checkpoint(
        path,
        {"model_type": "llama"},
        CONFIG,
        iter(tensors().items()),
        files={tokenizer.name: tokenizer},
        shard_bytes=shard_bytes,
    )
    assert read_quantization_config(path) == CONFIG
    assert json.loads((path / "config.json").read_text())["model_type"] == "llama"
    assert (path / "tokenizer.json").read_text() == "{}"
    assert (path / "model.safetensors.index.json").exists() == (shard_bytes < 1 << 30)
    stored = stored_tensors(path)
    check_modules(CONFIG, stored, LINEARS)
    assert {name: tensor.shape for name, tensor in stored.items()} == {k: v.shape for k, v in tensors().items()}
    weight = load_module(stored, "layers.0.q_proj", 6, 100, CONFIG.plane_format)
    np.testing.assert_array_equal(weight.planes, tensors()["layers.0.q_proj.planes"])
    np.testing.assert_array_equal(weight.scales, tensors()["layers.0.q_proj.scales"])


def test_checkpoint_with_bfloat16_keeps_its_bytes(tmp_path):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    write_checkpoint(tmp_path / "c", {}, CONFIG, [("norm.weight", np.arange(3).astype(bfloat16))])
    assert stored_tensors(tmp_path / "c")["norm.weight"].dtype == "BF16"


def test_write_that_fails_halfway_leaves_nothing(tmp_path):
    def failing():
        yield from tensors().items()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(tmp_path / "checkpoint", {}, CONFIG, failing(), shard_bytes=1)
    assert not list(tmp_path.iterdir())


def test_write_over_files_is_refused_and_into_an_empty_directory_works(tmp_path):
    path = tmp_path / "checkpoint"
    path.mkdir()
    write_checkpoint(path, {}, CONFIG, tensors().items())
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    with pytest.raises(InputError, match="is not an empty directory"):
        write_checkpoint(path, {}, CONFIG, [])
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before


@pytest.mark.parametrize("shard_bytes", [1 << 30, 1])
def test_write_of_a_name_twice_is_refused(tmp_path, shard_bytes):
    twice = [("a", np.zeros(3)), ("a", np.zeros(3))]
    with pytest.raises(ValueError, match="a comes twice"):
        write_checkpoint(tmp_path / "c", {}, CONFIG, twice, shard_bytes=shard_bytes)
    assert not list(tmp_path.iterdir())


def test_plain_directory_has_no_config_of_ours(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert read_quantization_config(tmp_path) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"quantization_config": {"quant_method": "gptq"}}', 'already quantized with "gptq"'),
        ('{"quantization_config": 3}', "config.json: quantization_config: expected an object, got 3"),
        ('{"quantization_config": {}}', "quant_method"),
        ("{", "not valid JSON"),
        ("[]", r"expected a JSON object"),
        ("[" * 100_000, "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (None, "config.json: missing"),
    ],
)
def test_config_file_that_is_damaged_is_refused(tmp_path, text, message):
    if text is not None:
        (tmp_path / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=message):
        read_quantization_config(tmp_path)


def without(name):
    return {key: value for key, value in tensors().items() if key != name}


Q = "layers.0.q_proj"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (without(f"{Q}.planes"), rf"{Q}.planes: missing; expected U8 \[2, 6, 16\]"),
        (without(f"{Q}.scales"), rf"{Q}.scales: missing; expected F16 or F32 or BF16 \[3, 6, 2\]"),
        (without("lm_head.weight"), "lm_head.weight: missing"),
        ({**tensors(), f"{Q}.planes": np.zeros((2, 6, 15), np.uint8)}, r"planes: expected .* got U8 \[2, 6, 15\]"),
        ({**tensors(), f"{Q}.planes": np.zeros((3, 6, 16), np.uint8)}, r"planes: expected .* got U8 \[3, 6, 16\]"),
        ({**tensors(), f"{Q}.planes": np.zeros((2, 6, 16), np.int8)}, "planes: expected U8 .* got I8"),
        ({**tensors(), f"{Q}.scales": np.zeros((2, 6, 2), np.float16)}, r"scales: expected .* got F16 \[2, 6, 2\]"),
        (
            {**tensors(), f"{Q}.scales": np.zeros((3, 6, 2), np.float64)},
            "scales: expected F16 or F32 or BF16 .* got F64",
        ),
        ({**tensors(), f"{Q}.weight": np.zeros((6, 100))}, "weight: not expected beside"),
        ({**tensors(), "other.planes": np.zeros(3)}, "other.planes: not expected"),
        ({**tensors(), "lm_head.scales": np.zeros(3)}, "lm_head.scales: not expected"),
    ],
)
def test_modules_that_differ_from_config_are_refused_by_name(tmp_path, arrays, message):
    write_checkpoint(tmp_path / "c", {}, CONFIG, arrays.items())
    with pytest.raises(InputError, match=message):
        check_modules(CONFIG, stored_tensors(tmp_path / "c"), LINEARS)


def test_modules_with_rows_shorter_than_a_group_are_refused():
    file = Path("model.safetensors")
    planes, scales = map(tuple, CONFIG.plane_format.shapes(4, 32))
    parts = (("m.planes", "U8", planes), ("m.scales", "F16", scales))
    stored = {name: StoredTensor(file, name, kind, shape) for name, kind, shape in parts}
    with pytest.raises(InputError, match="m: group_size 64 is larger than its row of 32 inputs"):
        check_modules(CONFIG, stored, {"m": (4, 32)})


def test_scales_that_are_not_finite_are_refused(tmp_path):
    arrays = tensors()
    arrays[f"{Q}.scales"][1, 2, 0] = np.inf
    write_checkpoint(tmp_path / "c", {}, CONFIG, arrays.items())
    with pytest.raises(InputError, match="scales: holds a value that is not finite"):
        load_module(stored_tensors(tmp_path / "c"), Q, 6, 100, CONFIG.plane_format)


@pytest.mark.parametrize("length", [0, 5, 100, -1])
def test_tensor_file_that_is_truncated_is_refused(checkpoint, length):
    file = checkpoint / "model.safetensors"
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(InputError, match=r"model.safetensors: not a whole safetensors file"):
        stored_tensors(checkpoint)


def test_tensor_file_that_is_missing_is_refused(checkpoint):
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model.safetensors: missing"):
        stored_tensors(checkpoint)


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "../model.safetensors"}, "is not the name of a safetensors file"),
        ({"a": "/etc/passwd"}, "is not the name of a safetensors file"),
        ({"a": "pytorch_model.bin"}, "is not the name of a safetensors file"),
        ({"a": 3}, "is not the name of a safetensors file"),
        ({"a": "other.safetensors"}, "other.safetensors: missing"),
        ({"a": "shard.safetensors"}, "a should be in shard.safetensors"),
        ({}, "weight_map must be"),
        (None, "weight_map must be"),
    ],
)
def test_index_that_is_wrong_is_refused(checkpoint, weight_map, message):
    (checkpoint / "model.safetensors").rename(checkpoint / "shard.safetensors")
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(InputError, match=message):
        stored_tensors(checkpoint)


def test_index_beside_a_whole_file_is_left_aside(checkpoint):
    """A leftover index must not hide the file that transformers would load."""
    before = stored_tensors(checkpoint)
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "old.safetensors"}}))

    assert stored_tensors(checkpoint) == before
