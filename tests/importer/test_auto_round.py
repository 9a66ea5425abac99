"""AutoRound directories in each packing: against AutoRound, with mixed widths, and damaged."""

from pathlib import Path

import numpy as np
import pytest

from dualbinary import InputError
from importer.readers.auto_round import open_auto_round
from tests.support import packed_words as slow
from tests.support.foreign_directories import LINEARS, assert_checkpoint_holds, dequantized, plain_tensors, save

DATA = np.load(Path(__file__).parent / "data" / "auto_round.npz")
CASES = sorted({name.rpartition("/")[0] for name in DATA.files})
Q = "model.layers.0.self_attn.q_proj"


def block(packing, bits, size, **more):
    base = {"quant_method": "auto-round", "bits": bits, "group_size": size, "data_type": "int", "sym": True}
    return base | {"packing_format": packing} | more


def layer_of_data(case):
    parts = ("qweight", "qzeros", "scales", "g_idx")
    return {part: DATA[f"{case}/{part}"] for part in parts if f"{case}/{part}" in DATA.files}


def opened(path, layers, config_block):
    tensors = plain_tensors(np.random.default_rng(1))
    for module, parts in layers.items():
        tensors |= {f"{module}.{part}": tensor for part, tensor in parts.items()}
    return open_auto_round(*save(path, tensors, config_block))


@pytest.mark.parametrize("case", CASES)
def test_a_weight_is_what_autoround_multiplies_by(case, tmp_path):
    packing, _, bits = case.rpartition("/")
    model = opened(tmp_path, {Q: layer_of_data(case)}, block(packing, int(bits), 16))
    np.testing.assert_array_equal(dequantized(model.weights[Q]), DATA[f"{case}/expected"])
    assert model.weights[Q].kind == f"auto-round as {packing}, {bits} bits, groups of 16"


def gptq_words(rng, N, K, bits, size, zeros):
    q = rng.integers(0, 2**bits, (N, K))
    parts = {"qweight": slow.dense(q, bits).T, "qzeros": slow.dense(zeros.T, bits)}
    return q, parts | {"scales": np.ones((K // size, N), np.float16)}


@pytest.mark.parametrize(
    ("packing", "less"), [("auto_round", 0), ("auto_round:gptqmodel", 0), ("auto_round:auto_gptq", 1)]
)
def test_the_packing_tells_zero_points_where_values_do_not(packing, less, tmp_path):
    rng = np.random.default_rng(5)
    stored = rng.integers(0, 256, (32, 2))
    stored[0] = 255  # less one, it means 256, which eight bits cannot say
    q, parts = gptq_words(rng, 32, 64, 8, 32, stored)
    weight = opened(tmp_path, {Q: parts}, block(packing, 8, 32, sym=False)).weights[Q]
    np.testing.assert_array_equal(weight.read().zero, stored + less)
    np.testing.assert_array_equal(weight.read().q, q)


def test_widths_and_groups_may_differ_by_name_and_by_pattern(tmp_path):
    rng = np.random.default_rng(6)
    widths = dict.fromkeys(LINEARS, (2, 32)) | {"lm_head": (8, 64), "model.layers.0.mlp.down_proj": (4, 16)}
    widths |= {name: (4, 32) for name in LINEARS if name.endswith(("k_proj", "v_proj"))}
    layers = {}
    for module, (bits, size) in widths.items():
        N, K = LINEARS.get(module, (128, 64))
        layers[module] = gptq_words(rng, N, K, bits, size, np.full((N, K // size), 2 ** (bits - 1)))[1]
    extra = {
        "lm_head": {"bits": 8, "group_size": 64, "sym": True},
        "model.layers.0.mlp.down_proj": {"bits": 4, "group_size": 16},
        r"\.(k|v)_proj": {"bits": 4, "act_bits": None},
    }
    tensors_block = block("auto_round:gptqmodel", 2, 32, extra_config=extra)
    tensors = plain_tensors(rng, {"model.embed_tokens": (128, 64)})
    tensors |= {f"{module}.{part}": tensor for module, parts in layers.items() for part, tensor in parts.items()}
    model = open_auto_round(*save(tmp_path, tensors, tensors_block))
    found = {module: (weight.bits, weight.group_size) for module, weight in model.weights.items()}
    assert found == widths | {"lm_head": (8, -1)}
    assert all(np.all(weight.read().zero == 2 ** (weight.bits - 1)) for weight in model.weights.values())
    assert_checkpoint_holds(model, tmp_path / "checkpoint")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"data_type": "mx_fp"}, "data_type: expected int, int_sym, int_asym, got 'mx_fp'; its levels are not even"),
        ({"act_bits": 8, "act_dynamic": False}, "inputs in fixed ranges belong to the model"),
        ({"rotation_config": {"hadamard": True}}, "rotation_config: the model computes more"),
        ({"extra_config": {Q: {"bits": 8}}}, "config.json says 8 bits, but shapes say 4"),
        ({"extra_config": {"(": {"bits": 8}}}, "is not a regular expression"),
        ({"extra_config": []}, None),
        ({"extra_config": {Q: 4}}, "extra_config: expected an object of objects"),
        ({"packing_format": "auto_round:auto_awq"}, f"{Q}.scales|{Q}.qzeros"),
    ],
)
def test_a_contradictory_directory_is_one_error(values, message, tmp_path):
    zeros = np.full((64, 2), 8)
    layers = {Q: gptq_words(np.random.default_rng(7), 64, 64, 4, 32, zeros)[1]}
    if message is None:
        assert opened(tmp_path, layers, block("auto_round:gptqmodel", 4, 32) | values).weights
        return
    with pytest.raises(InputError, match=message):
        opened(tmp_path, layers, block("auto_round:gptqmodel", 4, 32) | values)


def test_inputs_of_eight_bits_are_said(tmp_path):
    layers = {Q: gptq_words(np.random.default_rng(8), 64, 64, 4, 32, np.full((64, 2), 8))[1]}
    model = opened(tmp_path, layers, block("auto_round:gptqmodel", 4, 32, act_bits=8, act_dynamic=True))
    assert any("inputs were quantized to 8 bits" in note for note in model.notes)
