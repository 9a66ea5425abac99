"""AWQ directories: against AutoAWQ, against slow packing, and damaged."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualbinary import InputError
from importer.readers.awq import open_awq, recognises
from tests.support import packed_words as slow
from tests.support.foreign_directories import LINEARS, assert_checkpoint_holds, dequantized, plain_tensors, save

DATA = np.load(Path(__file__).parent / "data" / "autoawq.npz")
Q = "model.layers.0.self_attn.q_proj"
BLOCK = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}


def packed(q, zeros, scales):
    """The three tensors of q [N, K], zeros and scales [N, groups]."""
    return {"qweight": slow.awq(q.T, 4), "qzeros": slow.awq(zeros.T, 4), "scales": scales.T.astype(np.float16)}


def one_layer(path, parts, block=BLOCK):
    tensors = plain_tensors(np.random.default_rng(1)) | {f"{Q}.{part}": tensor for part, tensor in parts.items()}
    return open_awq(*save(path, tensors, block)).weights[Q]


def test_a_weight_is_what_autoawq_dequantizes(tmp_path):
    weight = one_layer(tmp_path, {part: DATA[part] for part in ("qweight", "qzeros", "scales")})
    np.testing.assert_array_equal(dequantized(weight), DATA["expected"])


@given(st.integers(1, 5), st.sampled_from((16, 32, 64)), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_every_shape_is_read_as_it_was_packed(tmp_path_factory, eights, size, groups, seed):
    rng = np.random.default_rng(seed)
    N, K = 8 * eights, size * groups
    q, zeros = rng.integers(0, 16, (N, K)), rng.integers(0, 16, (N, groups))
    scales = rng.standard_normal((N, groups)).astype(np.float16)
    weight = one_layer(tmp_path_factory.mktemp("model"), packed(q, zeros, scales), BLOCK | {"group_size": size})
    columns = np.arange(K) // size
    expected = scales.astype(np.float32)[:, columns] * (q - zeros[:, columns]).astype(np.float32)
    np.testing.assert_array_equal(dequantized(weight), expected)


def test_a_whole_model_has_all_modules(tmp_path):
    rng = np.random.default_rng(2)
    tensors = plain_tensors(rng)
    for module, (N, K) in LINEARS.items():
        parts = packed(rng.integers(0, 16, (N, K)), rng.integers(0, 16, (N, 1)), np.ones((N, 1)))
        tensors |= {f"{module}.{part}": tensor for part, tensor in parts.items()}
    path, config = save(tmp_path, tensors, None)
    (path / "quant_config.json").write_text('{"w_bit": 4, "q_group_size": -1, "version": "GEMM", "zero_point": true}')
    assert recognises(path, config)
    model = open_awq(path, config)
    assert set(model.weights) == set(LINEARS)
    assert not any(name.rpartition(".")[0] in LINEARS for name in model.tensors)
    assert {weight.group_size for weight in model.weights.values()} == {-1}
    assert_checkpoint_holds(model, tmp_path / "checkpoint")


@pytest.mark.parametrize(
    ("values", "dropped", "message"),
    [
        ({"version": "gemv"}, None, "expected gemm, got 'gemv'; save the model in the packing gemm"),
        ({"version": "llm-awq"}, None, "expected gemm, got 'llm-awq'"),
        ({"bits": 3}, None, "AWQ has 4 bits, got 3"),
        ({"group_size": 64}, None, "has 2 groups of scales for 64 inputs"),
        ({}, "qzeros", f"{Q}.qzeros: missing"),
        ({}, "scales", f"{Q}.scales: missing"),
    ],
)
def test_a_damaged_directory_is_one_error(values, dropped, message, tmp_path):
    parts = {part: DATA[part] for part in ("qweight", "qzeros", "scales") if part != dropped}
    with pytest.raises(InputError, match=message):
        one_layer(tmp_path, parts, BLOCK | values)
