"""bitsandbytes: eight bits against the library, four bits refused."""

from pathlib import Path

import numpy as np
import pytest

from dualbinary import InputError
from importer.readers.bitsandbytes import open_bitsandbytes
from tests.support.foreign_directories import LINEARS, assert_checkpoint_holds, dequantized, plain_tensors, save

DATA = np.load(Path(__file__).parent / "data" / "bitsandbytes.npz")
BLOCK = {"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": False, "llm_int8_threshold": 6.0}
Q = "model.layers.0.self_attn.q_proj"


def layer(q, scales):
    return {"weight": q.astype(np.int8), "SCB": scales.astype(np.float32), "weight_format": np.zeros((), np.uint8)}


def opened(path, layers, block=BLOCK):
    tensors = plain_tensors(np.random.default_rng(1))
    tensors |= {f"{module}.{part}": tensor for module, parts in layers.items() for part, tensor in parts.items()}
    return open_bitsandbytes(*save(path, tensors, block))


def test_a_weight_is_what_bitsandbytes_dequantizes(tmp_path):
    weight = opened(tmp_path, {Q: layer(DATA["weight"], DATA["SCB"])}).weights[Q]
    numbers = weight.read()
    assert 0 < numbers.rounding <= 2.0**-24
    # Both are q·SCB/127 with a rounded quotient: here SCB/127, there 1/127; then one and two products are rounded.
    expected = DATA["expected"]
    assert (np.abs(dequantized(weight) - expected) <= 5 * 2.0**-24 * np.abs(expected)).all()
    exact = DATA["weight"] * DATA["SCB"].astype(np.float64)[:, None] / 127
    assert (np.abs(dequantized(weight) - exact) <= 2 * 2.0**-24 * np.abs(exact)).all()


def test_a_whole_model_has_all_modules(tmp_path):
    rng = np.random.default_rng(2)
    layers = {module: layer(rng.integers(-128, 128, shape), rng.random(shape[0])) for module, shape in LINEARS.items()}
    model = opened(tmp_path, layers)
    assert set(model.weights) == set(LINEARS)
    assert not any(name.rpartition(".")[0] in LINEARS for name in model.tensors)
    np.testing.assert_array_equal(model.weights[Q].read().q - 128.0, layers[Q]["weight"].astype(float))
    assert "quantized to 8 bits at every call" in model.notes[0]
    assert_checkpoint_holds(model, tmp_path / "checkpoint")


@pytest.mark.parametrize(
    ("block", "parts", "message"),
    [
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, {}, "bitsandbytes NF4: its levels are not even"),
        ({"load_in_8bit": False}, {}, "bitsandbytes FP4: its levels are not even"),
        ({}, {"weight_format": np.ones((), np.uint8)}, "expected 0, rows as they are"),
        ({}, {"SCB": np.ones(32, np.float32)}, r"SCB: expected F32 \[64\]"),
        ({}, {"SCB": None}, "no tensor holds a packed weight|belongs to no weight"),
        ({}, {"weight": np.ones((64, 64), np.float16)}, f"{Q}.weight: expected I8"),
    ],
)
def test_a_directory_that_is_none_is_one_error(block, parts, message, tmp_path):
    whole = layer(np.ones((64, 64)), np.ones(64)) | parts
    whole = {name: tensor for name, tensor in whole.items() if tensor is not None}
    with pytest.raises(InputError, match=message):
        opened(tmp_path, {Q: whole}, BLOCK | block)
