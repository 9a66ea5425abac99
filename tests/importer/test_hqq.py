"""HQQ directories: against hqq, against slow packing, and damaged."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualbinary import InputError
from dualbinary.checkpoint import quantized_by
from importer.readers import open_model
from importer.readers.hqq import open_hqq
from tests.support import packed_words as slow
from tests.support.foreign_directories import LINEARS, assert_checkpoint_holds, dequantized, plain_tensors, save

DATA = np.load(Path(__file__).parent / "data" / "hqq.npz")
CASES = sorted({name.rpartition("/")[0] for name in DATA.files})
BLOCK = {"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 32, "axis": 1}}}
Q = "model.layers.0.self_attn.q_proj"
PACKINGS = {1: ("1bit_u8", "u1"), 2: ("2bit_u8", "u1"), 3: ("3bit_32", "i4"), 4: ("4bit_u8", "u1")}
PACKINGS |= dict.fromkeys((5, 6, 8), ("8bit_u8", "u1"))


def layer(q, scale, zero, bits, size):
    """All tensors of q [N, K], scale and zero [N, groups]."""
    packing, dtype = PACKINGS[bits]
    words = slow.stacked_rows(q.reshape(-1, size), int(packing[0]), dtype, first_high=True)
    parts = {"W_q": words, "scale": scale.reshape(-1, 1), "zero": zero.reshape(-1, 1), "shape": np.array(q.shape)}
    numbers = {"nbits": np.int32(bits), "group_size": np.int32(size), "axis": np.int32(1), "quant_scale": np.uint8(0)}
    return parts | numbers | {"quant_zero": np.uint8(0), "packing": np.frombuffer(packing.encode(), np.uint8)}


def opened(path, layers):
    tensors = plain_tensors(np.random.default_rng(1))
    tensors |= {f"{module}.{part}": tensor for module, parts in layers.items() for part, tensor in parts.items()}
    return open_hqq(*save(path, tensors, BLOCK))


@pytest.mark.parametrize("case", CASES)
def test_a_weight_is_what_hqq_dequantizes(case, tmp_path):
    parts = {name.rpartition("/")[2]: DATA[name] for name in DATA.files if name.startswith(f"{case}/")}
    expected = parts.pop("expected")
    model = opened(tmp_path, {Q: parts})
    numbers = model.weights[Q].read()
    assert numbers.rounding == 0  # a product of two float16 is exact
    # q - zero is exact in float32 too, so both round the same number once.
    np.testing.assert_array_equal(dequantized(model.weights[Q]), expected)


def test_whole_zero_points_stay_zero_points(tmp_path):
    rng = np.random.default_rng(4)
    zero = rng.integers(-3, 20, (8, 2))
    parts = layer(rng.integers(0, 16, (8, 64)), np.ones((8, 2), np.float16), zero.astype(np.float16), 4, 32)
    numbers = opened(tmp_path, {Q: parts}).weights[Q].read()
    assert numbers.offset is None
    np.testing.assert_array_equal(numbers.zero, zero)


@given(
    st.sampled_from(sorted(PACKINGS)), st.sampled_from((16, 32)), st.integers(1, 2), st.integers(1, 3),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_every_shape_is_read_as_it_was_packed(tmp_path_factory, bits, size, groups, eights, seed):
    rng = np.random.default_rng(seed)
    N = 8 * eights  # hqq packs halves, quarters and eighths of all rows, and loses what is left over
    q = rng.integers(0, 2**bits, (N, size * groups))
    scale, zero = rng.standard_normal((2, N, groups)).astype(np.float16)
    weight = opened(tmp_path_factory.mktemp("model"), {Q: layer(q, scale, zero, bits, size)}).weights[Q]
    numbers = weight.read()
    np.testing.assert_array_equal(numbers.q, q)
    np.testing.assert_array_equal(numbers.step, scale)
    np.testing.assert_array_equal(numbers.offset, -scale.astype(np.float32) * zero.astype(np.float32))


def test_words_that_are_stored_as_floats_are_read(tmp_path):
    q = np.random.default_rng(2).integers(0, 8, (16, 64))
    parts = layer(q, np.ones((16, 2), np.float16), np.ones((16, 2), np.float16), 3, 32)
    parts["W_q"] = parts["W_q"].view(np.float16)
    np.testing.assert_array_equal(opened(tmp_path, {Q: parts}).weights[Q].read().q, q)


def test_a_whole_model_has_all_modules_and_no_settings(tmp_path):
    rng = np.random.default_rng(3)
    layers = {}
    for module, (N, K) in LINEARS.items():
        scale, zero = rng.standard_normal((2, N, K // 32)).astype(np.float16)
        layers[module] = layer(rng.integers(0, 16, (N, K)), scale, zero, 4, 32)
    model = opened(tmp_path, layers)
    assert set(model.weights) == set(LINEARS)
    assert not any(name.rpartition(".")[0] in LINEARS for name in model.tensors)
    assert_checkpoint_holds(model, tmp_path / "checkpoint")
    config = json.loads((tmp_path / "config.json").read_text())
    del config["quantization_config"]  # as hqq's save_to_safetensors writes it
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert quantized_by(tmp_path) == '"hqq"'
    assert open_model(tmp_path).weights.keys() == model.weights.keys()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"axis": np.int32(0)}, "expected 1, got 0: its groups run over outputs; quantize again with axis 1"),
        ({"quant_zero": np.uint8(1)}, "scales that are quantized themselves"),
        ({"packing": np.frombuffer(b"4bit_32", np.uint8)}, "packing: expected 8bit_u8.*got '4bit_32'"),
        ({"group_size": np.int32(48)}, "48 does not divide the 64 inputs"),
        ({"group_size": np.int32(0)}, "0 does not divide the 64 inputs"),
        ({"nbits": np.int32(2)}, "2 bits do not stand in fields of 4"),
        ({"shape": np.array([32, 64])}, f"{Q}.W_q: expected U8"),
        ({"scale": None}, f"{Q}.scale: missing"),
        ({"nbits": None}, f"{Q}.nbits: expected one number, got nothing"),
        ({"zero": np.full((32, 1), np.inf, np.float16)}, "holds a value that is not finite"),
        ({"W_q": None}, "no tensor holds a packed weight|belongs to no weight"),
    ],
)
def test_a_damaged_directory_is_one_error(parts, message, tmp_path):
    whole = layer(np.ones((16, 64), int), np.ones((16, 2), np.float16), np.ones((16, 2), np.float16), 4, 32) | parts
    whole = {name: tensor for name, tensor in whole.items() if tensor is not None}
    with pytest.raises(InputError, match=message):
        opened(tmp_path, {Q: whole}).weights[Q].read()


@pytest.mark.parametrize(("bits", "groups"), [(1, 12), (2, 5), (4, 3)])
def test_groups_that_do_not_fill_their_bytes_are_refused(bits, groups, tmp_path):
    """Such bytes may be as many as a reader expects, and hold other integers: hqq repeats or drops groups."""
    parts = layer(np.zeros((groups, 32), int), np.ones((groups, 1)), np.ones((groups, 1)), bits, 32)
    with pytest.raises(InputError, match=rf"{Q}.W_q: {groups} groups do not fill bytes of {8 // bits} integers"):
        opened(tmp_path, {Q: {**parts, "shape": np.array([groups, 32])}})
