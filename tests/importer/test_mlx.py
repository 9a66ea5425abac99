"""MLX directories: against MLX, against slow packing, with overrides and embeddings, and damaged."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualbinary import InputError
from importer.readers.mlx import open_mlx, recognises
from tests.support import packed_words as slow
from tests.support.foreign_directories import (
    LINEARS,
    TABLES,
    assert_checkpoint_holds,
    bfloat16,
    dequantized,
    plain_tensors,
    save,
)

DATA = np.load(Path(__file__).parent / "data" / "mlx.npz")
CASES = sorted({name.rpartition("/")[0] for name in DATA.files})
Q = "model.layers.0.self_attn.q_proj"


def layer(q, scales, biases, bits):
    return {"weight": slow.dense(q, bits).view(np.uint32), "scales": scales, "biases": biases}


def opened(path, layers, block, key="quantization", tables=TABLES):
    tensors = plain_tensors(np.random.default_rng(1), tables)
    tensors |= {f"{module}.{part}": tensor for module, parts in layers.items() for part, tensor in parts.items()}
    return open_mlx(*save(path, tensors, block, key=key))


@pytest.mark.parametrize("case", CASES)
def test_a_weight_is_what_mlx_dequantizes(case, tmp_path):
    bits, size = map(int, case.split("/"))
    parts = {part: DATA[f"{case}/{part}"] for part in ("weight", "scales", "biases")}
    weight = opened(tmp_path, {Q: parts}, {"bits": bits, "group_size": size}).weights[Q]
    assert (weight.read().step < 0).any()
    np.testing.assert_array_equal(dequantized(weight), DATA[f"{case}/expected"])


@given(
    st.sampled_from((2, 3, 4, 5, 6, 8)), st.sampled_from((32, 64, 128)), st.integers(1, 3), st.integers(1, 9),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_every_shape_is_read_as_it_was_packed(tmp_path_factory, bits, size, groups, N, seed):
    rng = np.random.default_rng(seed)
    q = rng.integers(0, 2**bits, (N, size * groups))
    scales, biases = rng.standard_normal((2, N, groups)).astype(np.float16)
    block = {"bits": bits, "group_size": size}
    weight = opened(tmp_path_factory.mktemp("model"), {Q: layer(q, scales, biases, bits)}, block).weights[Q]
    numbers = weight.read()
    np.testing.assert_array_equal(numbers.q, q)
    np.testing.assert_array_equal(numbers.step, scales)
    np.testing.assert_array_equal(numbers.offset, biases)
    assert (weight.N, weight.K, weight.bits, weight.source_bits) == (N, size * groups, bits, bits + 32 / size)


def test_a_whole_model_with_overrides_tables_and_a_bias(tmp_path):
    rng = np.random.default_rng(2)
    down, table = "model.layers.0.mlp.down_proj", "model.embed_tokens"
    layers = {}
    for module, (N, K) in (LINEARS | {table: TABLES[table]}).items():
        bits, size = {down: (8, 32), table: (6, 64)}.get(module, (3, 32))
        q = rng.integers(0, 2**bits, (N, K))
        scales, biases = bfloat16(rng.standard_normal((2, N, K // size)))
        layers[module] = layer(q, scales, biases, bits)
    layers[Q]["bias"] = np.ones(64, np.float16)
    block = {"bits": 3, "group_size": 32, "mode": "affine", down: {"bits": 8, "group_size": 32}}
    block |= {table: {"bits": 6, "group_size": 64}, "lm_head": False}
    model = opened(tmp_path, layers, block, tables={"lm_head": (128, 64)})
    assert set(model.weights) == {*LINEARS, table}
    assert (model.weights[down].bits, model.weights[table].bits, model.weights[table].group_size) == (8, 6, -1)
    assert model.weights[Q].read().step.dtype == np.float32
    assert {f"{Q}.bias", "lm_head.weight"} <= set(model.tensors)
    assert not any(name.endswith((".biases", ".scales")) for name in model.tensors)
    assert "quantization" not in model.config
    assert_checkpoint_holds(model, tmp_path / "checkpoint")


def test_the_same_words_of_transformers_are_read(tmp_path):
    q = np.random.default_rng(3).integers(0, 16, (64, 64))
    parts = layer(q, np.ones((64, 1), np.float16), np.ones((64, 1), np.float16), 4)
    parts["qbiases"] = parts.pop("biases")
    block = {"quant_method": "metal", "bits": 4, "group_size": 64}
    model = opened(tmp_path, {Q: parts}, block, key="quantization_config")
    assert recognises(tmp_path, {"quantization_config": block})
    np.testing.assert_array_equal(model.weights[Q].read().q, q)


@pytest.mark.parametrize(
    ("block", "parts", "message"),
    [
        ({"mode": "mxfp4"}, {}, "quantization.mode: expected affine, got 'mxfp4'"),
        ({Q: {"mode": "nvfp4"}}, {}, "expected affine, got 'nvfp4'"),
        ({Q: False}, {}, "says that it is not quantized"),
        ({"bits": 8}, {}, "config.json says 8 bits, but shapes say 4"),
        ({"group_size": 0}, {}, "config.json says 4 bits, but no width fits its shapes"),
        ({"bits": None}, {}, "quantization.bits: expected a whole number"),
        ({}, {"biases": None}, f"{Q}.biases: missing"),
        ({}, {"weight": np.ones((64, 64), np.float16)}, f"{Q}.weight: expected U32"),
        ({}, {"scales": None}, "belongs to no weight|holds a packed weight"),
        ({}, {"scales": np.ones((32, 2), np.float16)}, f"{Q}.scales: expected"),
    ],
)
def test_a_damaged_directory_is_one_error(block, parts, message, tmp_path):
    halves = np.ones((64, 2), np.float16)
    whole = layer(np.ones((64, 64), int), halves, halves, 4) | parts
    whole = {name: tensor for name, tensor in whole.items() if tensor is not None}
    with pytest.raises(InputError, match=message):
        opened(tmp_path, {Q: whole}, {"bits": 4, "group_size": 32} | block)
