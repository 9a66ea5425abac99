"""Formats of models that are trained so, as transformers has them: BitNet and Gemma's quantization."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualbinary import InputError
from importer.readers.bitnet import open_bitnet
from importer.readers.gemma_qat import open_gemma
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

DATA = np.load(Path(__file__).parent / "data" / "transformers.npz")
Q = "model.layers.0.self_attn.q_proj"
TABLE = "model.embed_tokens"
BITNET = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"}
GEMMA = {"quant_method": "gemma", "num_bits": 4}


def opened(reader, path, layers, block, tables=TABLES):
    tensors = plain_tensors(np.random.default_rng(1), tables)
    tensors |= {f"{module}.{part}": tensor for module, parts in layers.items() for part, tensor in parts.items()}
    return reader(*save(path, tensors, block))


def test_a_bitnet_scale_multiplies(tmp_path):
    layers = {Q: {"weight": DATA["bitnet/weight"], "weight_scale": bfloat16([1.7])}}
    weight = opened(open_bitnet, tmp_path, layers, BITNET).weights[Q]
    scale = np.float32(bfloat16(1.7))
    np.testing.assert_array_equal(dequantized(weight), DATA["bitnet/expected"] * scale)
    assert weight.read().rounding == 0
    assert (weight.N, weight.K, weight.bits, weight.group_size) == (16, 64, 2, -1)


def test_a_bitnet_scale_divides_and_says_what_it_rounds(tmp_path):
    layers = {Q: {"weight": DATA["bitnet/weight"], "weight_scale": bfloat16([1.7])}}
    weight = opened(open_bitnet, tmp_path, layers, BITNET | {"linear_class": "bitlinear"}).weights[Q]
    step = np.float32(1 / np.float64(bfloat16(1.7)))
    np.testing.assert_array_equal(dequantized(weight), DATA["bitnet/expected"] * step)
    assert 0 < weight.read().rounding <= 2.0**-24


@given(st.integers(1, 6), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_every_bitnet_shape_is_read_as_it_was_packed(tmp_path_factory, quarter, K, seed):
    q = np.random.default_rng(seed).integers(0, 3, (4 * quarter, K))
    layers = {Q: {"weight": slow.stacked_rows(q, 2, "u1", first_high=False), "weight_scale": np.ones(1, np.float32)}}
    weight = opened(open_bitnet, tmp_path_factory.mktemp("model"), layers, BITNET).weights[Q]
    np.testing.assert_array_equal(weight.read().q, q)


def test_a_whole_bitnet_model_has_all_modules(tmp_path):
    rng = np.random.default_rng(2)
    layers = {
        module: {
            "weight": slow.stacked_rows(rng.integers(0, 3, shape), 2, "u1", first_high=False),
            "weight_scale": np.ones(1, np.float16),
        }
        for module, shape in LINEARS.items()
    }
    model = opened(open_bitnet, tmp_path, layers, BITNET)
    assert set(model.weights) == set(LINEARS)
    assert not any(name.rpartition(".")[0] in LINEARS for name in model.tensors)
    assert "8 bits a token" in model.notes[0]
    assert_checkpoint_holds(model, tmp_path / "checkpoint")


@pytest.mark.parametrize(
    ("block", "parts", "message"),
    [
        ({"quantization_mode": "online"}, {}, "quantization_mode: expected offline, got 'online'"),
        ({"linear_class": "linear"}, {}, "linear_class: expected bitlinear or autobitlinear"),
        ({"use_rms_norm": True}, {}, "use_rms_norm: norms inside linear layers"),
        ({}, {"weight": np.full((16, 64), 255, np.uint8)}, "expected codes 0, 1 and 2, got 3"),
        ({}, {"weight": np.ones((64, 64), np.float16)}, f"{Q}.weight: expected U8"),
        ({}, {"weight_scale": None}, f"{Q}.weight|no tensor holds a packed weight"),
        (
            {"linear_class": "bitlinear"},
            {"weight_scale": np.zeros(1, np.float32)},
            "expected a finite number",
        ),
        ({}, {"weight_scale": np.ones(2, np.float32)}, "weight_scale: expected F16 or BF16 or F32"),
    ],
)
def test_a_damaged_bitnet_directory_is_one_error(block, parts, message, tmp_path):
    whole = {"weight": np.ones((16, 64), np.uint8), "weight_scale": np.ones(1, np.float32)} | parts
    whole = {name: tensor for name, tensor in whole.items() if tensor is not None}
    with pytest.raises(InputError, match=message):
        opened(open_bitnet, tmp_path, {Q: whole}, BITNET | block).weights[Q].read()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_gemma_weights_and_tables_are_what_transformers_dequantizes(bits, tmp_path):
    case = f"gemma/{bits}"
    layers = {
        Q: {"weight": DATA[f"{case}/weight"], "weight_scale": DATA[f"{case}/weight_scale"]},
        TABLE: {"embedding_quantized": DATA[f"{case}/weight"], "embedding_scale": DATA[f"{case}/embedding_scale"]},
    }
    model = opened(open_gemma, tmp_path, layers, GEMMA | {"num_bits": bits}, {"lm_head": (128, 64)})
    np.testing.assert_array_equal(dequantized(model.weights[Q]), DATA[f"{case}/expected"])
    np.testing.assert_array_equal(dequantized(model.weights[TABLE]), DATA[f"{case}/table"])
    assert (model.weights[Q].group_size, model.weights[TABLE].group_size) == (-1, 32)


def test_gemma_widths_are_those_of_the_pattern_that_matches_first_in_the_name(tmp_path):
    rng = np.random.default_rng(3)
    widths = {module: 2 if "mlp" in module else 8 if module == Q else 4 for module in LINEARS}
    layers = {}
    for module, (N, K) in LINEARS.items():
        stored = rng.integers(0, 128, (N, K * widths[module] // 8)).astype(np.int8 if module == Q else np.uint8)
        layers[module] = {"weight": stored, "weight_scale": np.ones((N, 1), np.float32)}
        layers[module]["input_activation_scale"] = np.full((), 0.5, np.float32)
    layers["model.layers.0.self_attn"] = {"k_cache_scale": np.ones((), np.float32)}
    patterns = {"proj": {}, r"self_attn\.q_proj": {"num_bits": 8}, r"mlp\.": {"num_bits": 2}}
    model = opened(open_gemma, tmp_path, layers, GEMMA | {"module_quant_configs": patterns})
    assert {module: weight.bits for module, weight in model.weights.items()} == widths
    assert [("in fixed ranges" in note, "cache" in note) for note in model.notes] == [(True, False), (False, True)]
    assert not any(name.rpartition(".")[0] in LINEARS for name in model.tensors)
    assert_checkpoint_holds(model, tmp_path / "checkpoint")


@pytest.mark.parametrize(
    ("block", "parts", "message"),
    [
        ({"num_bits": 3}, {}, "num_bits: expected 2, 4 or 8"),
        ({"num_bits": 8}, {}, rf"{Q}.weight: expected I8"),
        ({"module_quant_configs": {"(": {}}}, {}, "is not a regular expression"),
        ({"module_quant_configs": {"q_proj": 4}}, {}, "expected an object of objects"),
        ({}, {"weight_scale": np.ones((32, 1), np.float32)}, r"weight_scale: expected F32 \[64, 1\]"),
        ({}, {"weight_scale": None}, f"{Q}.weight|no tensor holds a packed weight"),
        ({}, {"rqv2_muls": np.ones(4, np.int8)}, "belongs to no weight of gemma"),
    ],
)
def test_a_damaged_gemma_directory_is_one_error(block, parts, message, tmp_path):
    whole = {"weight": np.ones((64, 32), np.uint8), "weight_scale": np.ones((64, 1), np.float32)} | parts
    whole = {name: tensor for name, tensor in whole.items() if tensor is not None}
    with pytest.raises(InputError, match=message):
        opened(open_gemma, tmp_path, {Q: whole}, GEMMA | block)
