"""Directories of compressed-tensors: against two of its versions, against slow packing, and damaged."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualbinary import InputError
from importer.readers.compressed_tensors import open_compressed_tensors
from tests.support import packed_words as slow
from tests.support.foreign_directories import (
    LINEARS,
    assert_checkpoint_holds,
    bfloat16,
    dequantized,
    plain_tensors,
    save,
)

DATA = np.load(Path(__file__).parent / "data" / "compressed_tensors.npz")
CASES = sorted({name.rpartition("/")[0] for name in DATA.files})
Q = "model.layers.0.self_attn.q_proj"


def block(
    bits, strategy="group", size=32, *, symmetric=True, form="pack-quantized", version: str | None = "0.20.0", **more
):
    weights = {"num_bits": bits, "type": "int", "strategy": strategy, "symmetric": symmetric}
    weights["group_size"] = size if strategy == "group" else None
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    base = {"quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": group}}
    return base | {"ignore": ["lm_head"], "version": version, "quantization_status": "compressed"} | more


def opened(path, layers, config_block):
    tensors = plain_tensors(np.random.default_rng(1))
    for module, parts in layers.items():
        tensors |= {f"{module}.{part}": tensor for part, tensor in parts.items()}
    return open_compressed_tensors(*save(path, tensors, config_block))


def packed(q, scales, bits, zeros=None, pack=slow.dense):
    """The tensors of codes q [N, K] from 0, scales and zeros [N, groups]."""
    parts = {"weight_packed": pack(q, bits), "weight_shape": np.array(q.shape), "weight_scale": scales}
    return parts if zeros is None else {**parts, "weight_zero_point": pack(zeros.T, bits).T}


@pytest.mark.parametrize("case", CASES)
def test_a_weight_is_what_compressed_tensors_decompresses(case, tmp_path):
    version, form, bits, strategy, symmetric = case.split("/")
    parts = {name.rpartition("/")[2]: DATA[name] for name in DATA.files if name.startswith(f"{case}/")}
    expected = parts.pop("expected")
    options = {"symmetric": symmetric == "symmetric", "version": version, "form": f"{form}-quantized"}
    model = opened(tmp_path, {Q: parts}, block(int(bits), strategy, **options))
    np.testing.assert_array_equal(dequantized(model.weights[Q]), expected)


@given(
    st.integers(1, 8), st.sampled_from((16, 32)), st.integers(1, 3), st.integers(1, 12), st.booleans(), st.booleans(),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_every_shape_is_read_as_it_was_packed(tmp_path_factory, bits, size, groups, N, is_dense, shuffled, seed):
    rng = np.random.default_rng(seed)
    K = size * groups
    q, zeros = rng.integers(0, 2**bits, (N, K)), rng.integers(0, 2**bits, (N, groups))
    scales = rng.standard_normal((N, groups)).astype(np.float32)
    parts = packed(q, scales, bits, zeros, slow.dense if is_dense else slow.padded)
    g_idx = np.arange(K) // size
    if shuffled:
        g_idx = rng.permutation(g_idx)
        parts["weight_g_idx"] = g_idx.astype(np.int32)
    version = "0.18.0" if is_dense else "0.17.1"
    model = opened(
        tmp_path_factory.mktemp("model"), {Q: parts}, block(bits, "group", size, symmetric=False, version=version)
    )
    expected = scales[:, g_idx] * (q - zeros[:, g_idx]).astype(np.float32)
    np.testing.assert_array_equal(dequantized(model.weights[Q]), expected)


def test_a_whole_model_with_widths_by_name_and_pattern(tmp_path):
    rng = np.random.default_rng(2)
    down = "model.layers.0.mlp.down_proj"
    layers = {}
    for module, (N, K) in LINEARS.items():
        bits = 8 if module == down else 3 if "self_attn" in module else 4
        layers[module] = packed(rng.integers(0, 2**bits, (N, K)), bfloat16(np.ones((N, K // 32))), bits)
        if module == down:
            q = rng.integers(-128, 128, (N, K)).astype(np.int8)
            layers[module] = {
                "weight": q,
                "weight_scale": np.ones((N, 1), np.float32),
                "input_scale": np.ones(1, np.float32),
            }
    config_block = block(4, form="mixed-precision")
    eights = {"num_bits": 8, "strategy": "channel"}
    threes = {"num_bits": 3, "strategy": "group", "group_size": 32}
    inputs = {"num_bits": 8, "dynamic": False}
    config_block["config_groups"] |= {
        "by_pattern": {
            "targets": ["re:.*self_attn.*"],
            "weights": threes,
        },
        "by_name": {"targets": [down], "weights": eights, "input_activations": inputs},
    }
    model = opened(tmp_path, layers, config_block)
    assert set(model.weights) == set(LINEARS)
    assert {module: weight.bits for module, weight in model.weights.items() if weight.bits != 4} == {
        **{module: 3 for module in LINEARS if "self_attn" in module},
        down: 8,
    }
    assert not any(name.rpartition(".")[0] in LINEARS for name in model.tensors)
    assert model.notes == ("inputs were quantized to 8 bits in fixed ranges; here they are not",)
    assert model.weights[Q].read().zero == 4.0
    assert model.weights[Q].read().step.dtype == np.float32
    assert_checkpoint_holds(model, tmp_path / "checkpoint")


def test_short_rows_of_odd_widths_are_refused_unless_the_version_tells(tmp_path):
    small = np.arange(5).reshape(1, 5)  # one word, whichever way
    parts = packed(small, np.ones((1, 1), np.float32), 6)
    assert slow.dense(small, 6).shape == slow.padded(small, 6).shape
    for version in ("0.17.1", "0.20.0"):
        model = opened(tmp_path / version, {Q: parts}, block(6, "channel", version=version))
        np.testing.assert_array_equal(model.weights[Q].read().q, small)
    with pytest.raises(InputError, match="6 bits were packed in two ways, and neither the shape nor"):
        opened(tmp_path / "none", {Q: parts}, block(6, "channel", version=None))


def groups(**weights):
    base = {"num_bits": 4, "type": "int", "strategy": "group", "symmetric": True, "group_size": 32}
    return {"config_groups": {"group_0": {"targets": ["Linear"], "weights": base | weights}}}


@pytest.mark.parametrize(
    ("values", "parts", "message"),
    [
        ({"format": "nvfp4-pack-quantized"}, {}, "format: expected pack-quantized"),
        ({"format": "marlin-24"}, {}, "format: expected pack-quantized"),
        ({"transform_config": {"config_groups": {"R1": {}}}}, {}, "transform_config: the model computes more"),
        ({"config_groups": {}}, {}, "config_groups: expected an object of groups"),
        (
            {"config_groups": {"group_0": groups()["config_groups"]["group_0"] | {"input_activations": 7}}},
            {},
            "input_activations: expected an object, got 7",
        ),
        (groups(type="float"), {}, "type: expected int, got 'float'"),
        (groups(strategy="block"), {}, "strategy: expected group, channel, tensor"),
        (groups(num_bits=9), {}, "num_bits: expected 1 to 8, got 9"),
        (groups(num_bits=8), {}, r"holds no \[64, 64\] of 8 bits"),
        (groups(group_size=0), {}, "expected a group_size of 16 or a multiple of 32, got 0"),
        (groups(group_size=16), {}, r"weight_scale: expected F16 or BF16 or F32 \[64, 4\]"),
        (groups(symmetric=False), {}, "weight_zero_point: missing"),
        ({}, {"weight_scale": None}, "weight_scale: missing"),
        ({}, {"weight_shape": None}, "weight_shape: missing"),
        ({}, {"weight_shape": np.array([64, 128])}, r"holds no \[64, 128\] of 4 bits"),
        ({}, {"weight_g_idx": np.zeros(64, np.int32)}, "group 0 has 64 inputs, expected 32"),
        ({}, {"weight": np.ones((64, 64), np.float16)}, "not expected beside the packed weight"),
        ({}, {"weight_global_scale": np.ones(1, np.float32)}, "belongs to no weight"),
        ({}, {"weight_zero_point": np.ones((64, 2), np.int8)}, "says that the weight is symmetric"),
        ({"config_groups": {"g": {"targets": ["re:.*k_proj"], "weights": {"num_bits": 4}}}}, {}, "no group of"),
    ],
)
def test_a_damaged_directory_is_one_error(values, parts, message, tmp_path):
    layer = packed(np.ones((64, 64), int), np.ones((64, 2), np.float32), 4) | parts
    layer = {name: tensor for name, tensor in layer.items() if tensor is not None}
    with pytest.raises(InputError, match=message):
        opened(tmp_path, {Q: layer}, block(4) | values).weights[Q].read()


def test_integers_beyond_their_width_are_one_error(tmp_path):
    layer = {"weight": np.full((4, 32), 8, np.int8), "weight_scale": np.ones((4, 1), np.float32)}
    weight = opened(tmp_path, {Q: layer}, block(4, "channel", form="int-quantized")).weights[Q]
    with pytest.raises(InputError, match="expected integers of 4 bits, got 8 to 8"):
        weight.read()
