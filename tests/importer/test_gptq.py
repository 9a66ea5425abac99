"""GPTQ directories: against GPTQModel, against slow packing, with labels that lie, and damaged."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualbinary import InputError
from importer.readers.gptq import open_gptq, recognises
from tests.support import packed_words as slow
from tests.support.foreign_directories import (
    CONFIG,
    LINEARS,
    TABLES,
    assert_checkpoint_holds,
    bfloat16,
    dequantized,
    plain_tensors,
    save,
)

DATA = np.load(Path(__file__).parent / "data" / "gptqmodel.npz")
CASES = sorted({name.partition(".")[0] for name in DATA.files})
ONES = {2: 0x55555555, 4: 0x11111111, 8: 0x01010101}


def block(bits, size, form="gptq", **more):
    return {"quant_method": "gptq", "bits": bits, "group_size": size, "checkpoint_format": form, **more}


def packed(q, zeros, scales, bits, *, version=2, g_idx=None, pack=slow.dense):
    """The four tensors of q [N, K], zeros and scales [N, groups]; version 1 stores zeros less one, word by word."""
    words = pack(zeros.T, bits)
    if version == 1 and bits in ONES:
        words = (words.view(np.uint32) - np.uint32(ONES[bits])).view(np.int32)
    elif version == 1:
        words = pack((zeros.T - 1) % 2**bits, bits)
    tensors = {"qweight": pack(q, bits).T, "qzeros": words, "scales": scales.T.astype(np.float16)}
    return tensors if g_idx is None else {**tensors, "g_idx": g_idx.astype(np.int32)}


def gaussian(rng, N, K, bits, size):
    """q, zeros and scales of normal weights on an asymmetric grid."""
    weight = rng.standard_normal((N, K // size, size))
    low, high = weight.min(axis=2), weight.max(axis=2)
    scales = ((high - low) / (2**bits - 1)).astype(np.float16)
    zeros = np.clip(np.round(-low / scales), 0, 2**bits - 1).astype(int)
    q = np.clip(np.round(weight / scales[..., None]) + zeros[..., None], 0, 2**bits - 1)
    return q.reshape(N, K).astype(np.uint8), zeros, scales


def model_tensors(rng, bits, size, version=2, **options):
    tensors = plain_tensors(rng)
    for module, (N, K) in LINEARS.items():
        parts = packed(*gaussian(rng, N, K, bits, size), bits, version=version, **options)
        tensors |= {f"{module}.{part}": tensor for part, tensor in parts.items()}
    return tensors


def opened(path, tensors, config_block):
    return open_gptq(*save(path, tensors, config_block))


def one_layer(path, parts, config_block, rng):
    name = "model.layers.0.self_attn.q_proj"
    tensors = plain_tensors(rng) | {f"{name}.{part}": tensor for part, tensor in parts.items()}
    return opened(path, tensors, config_block).weights[name]


@pytest.fixture
def rng():
    return np.random.default_rng(3)


@pytest.mark.parametrize("case", CASES)
def test_a_weight_is_what_gptqmodel_dequantizes(case, tmp_path, rng):
    form, width, kind = re.findall(r"(\w+)_(\d)_(plain|act_order)", case)[0]
    bits = int(width)
    parts = {key: DATA[f"{case}.{key}"] for key in ("qweight", "qzeros", "scales", "g_idx")}
    weight = one_layer(tmp_path / "stored", parts, block(bits, 16, form), rng)
    np.testing.assert_array_equal(dequantized(weight), DATA[f"{case}.expected"])
    assert (weight.read().order is None) == (kind == "plain")
    if form == "gptq_v2":
        parts["qzeros"] = DATA[f"{case}.qzeros_v1"]
        weight = one_layer(tmp_path / "less one", parts, block(bits, 16, "gptq"), rng)
        np.testing.assert_array_equal(dequantized(weight), DATA[f"{case}.expected"])
    if bits == 3:
        parts["qzeros"] = DATA[f"{case}.qzeros_old"]
        weight = one_layer(tmp_path / "exchanged", parts, block(bits, 16, "gptq"), rng)
        np.testing.assert_array_equal(dequantized(weight), DATA[f"{case}.expected"])


@given(
    st.sampled_from((2, 3, 4, 8)),
    st.sampled_from((16, 32, 64)),
    st.integers(1, 3),
    st.integers(1, 2),
    st.sampled_from((1, 2)),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_every_shape_is_read_as_it_was_packed(tmp_path_factory, bits, size, groups, blocks, version, shuffled, seed):
    rng = np.random.default_rng(seed)
    N, K = 32 * blocks, max(size * groups, 32)
    groups = K // size
    q, zeros = rng.integers(0, 2**bits, (N, K)), rng.integers(0, 2**bits, (N, groups))
    zeros[:, 0] = q.mean()  # so that what the values say is what the label says, or nothing
    scales = rng.standard_normal((N, groups)).astype(np.float16)
    g_idx = rng.permutation(np.arange(K) // size) if shuffled else np.arange(K) // size
    parts = packed(q, zeros, scales, bits, version=version, g_idx=g_idx if shuffled or seed % 2 else None)
    label = "gptq" if version == 1 else "gptq_v2"
    path = tmp_path_factory.mktemp("model")
    weight = one_layer(path, parts, block(bits, size, label), rng)
    expected = scales.astype(np.float32)[:, g_idx] * (q - zeros[:, g_idx]).astype(np.float32)
    convention = open_gptq(path, {**CONFIG, "quantization_config": block(bits, size, label)}).notes[0]
    if f"(v{version})" in convention:
        np.testing.assert_array_equal(dequantized(weight), expected)
    else:
        assert "the values decide" in convention


def test_a_whole_model_has_all_modules_and_tensors(tmp_path, rng):
    model = opened(tmp_path, model_tensors(rng, 4, 32), block(4, 32, "gptq_v2", sym=False, desc_act=False))
    assert set(model.weights) == set(LINEARS)
    assert {name.removesuffix(".weight") for name in model.tensors} >= set(TABLES)
    assert not any(name.rpartition(".")[0] in LINEARS for name in model.tensors)
    assert "quantization_config" not in model.config
    assert model.config["model_type"] == "llama"
    q_proj = model.weights["model.layers.0.self_attn.q_proj"]
    assert (q_proj.N, q_proj.K, q_proj.bits, q_proj.group_size) == (64, 64, 4, 32)
    assert q_proj.source_bits == 4 + (16 + 4) / 32
    assert model.tensors["model.norm.weight"].read().dtype == np.float16
    assert_checkpoint_holds(model, tmp_path / "checkpoint")


def with_zero_biases(tensors):
    """As AutoGPTQ saves a model: a bias beside every packed weight."""
    return tensors | {f"{module}.bias": np.zeros(N, np.float16) for module, (N, _) in LINEARS.items()}


def test_biases_of_zeros_that_the_model_does_not_have_are_left_out(tmp_path, rng):
    tensors = with_zero_biases(model_tensors(rng, 4, 32))
    model = opened(tmp_path, tensors, block(4, 32, "gptq_v2"))
    assert not any(name.endswith(".bias") for name in model.tensors)
    assert "left out 7 biases of zeros, such as model.layers.0.mlp.down_proj.bias: a llama has none" in model.notes[-1]
    assert_checkpoint_holds(model, tmp_path / "checkpoint")


def test_biases_of_zeros_that_the_model_has_stay(tmp_path, rng):
    config = CONFIG | {"attention_bias": True, "mlp_bias": True}
    tensors = with_zero_biases(model_tensors(rng, 4, 32))
    model = open_gptq(*save(tmp_path, tensors, block(4, 32, "gptq_v2"), config=config))
    assert {f"{module}.bias" for module in LINEARS} <= set(model.tensors)
    assert not any("biases" in note for note in model.notes)


def test_biases_of_zeros_of_a_model_that_nobody_knows_stay_with_a_note(tmp_path, rng):
    tensors = with_zero_biases(model_tensors(rng, 4, 32))
    model = open_gptq(*save(tmp_path, tensors, block(4, 32, "gptq_v2"), config=CONFIG | {"model_type": "nobody"}))
    assert {f"{module}.bias" for module in LINEARS} <= set(model.tensors)
    assert "7 biases are zeros, such as model.layers.0.mlp.down_proj.bias; whether" in model.notes[-1]


def test_a_bias_that_is_not_zero_is_never_left_out(tmp_path, rng):
    tensors = with_zero_biases(model_tensors(rng, 4, 32))
    name = "model.layers.0.self_attn.q_proj.bias"
    tensors[name][-1] = 2.0**-24
    assert name in opened(tmp_path, tensors, block(4, 32, "gptq_v2")).tensors


BUFFERS = {
    "transformer.h.0.attn.bias": np.ones((1, 1, 8, 8), bool),
    "transformer.h.0.attn.masked_bias": np.full((), -1e9, np.float32),
    "gpt_neox.layers.0.attention.bias": np.ones((1, 1, 8, 8), np.uint8),
    "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(8, np.float32),
    "model.position_ids": np.arange(8, dtype=np.int64),
}


def test_buffers_that_a_model_computes_are_left_out(tmp_path, rng):
    model = opened(tmp_path, model_tensors(rng, 4, 32) | BUFFERS, block(4, 32, "gptq_v2"))
    assert not set(model.tensors) & set(BUFFERS)


def test_a_bias_that_is_called_like_a_mask_stays(tmp_path, rng):
    tensors = model_tensors(rng, 4, 32) | {"model.layers.0.attention.bias": np.ones(64, np.float16)}
    assert "model.layers.0.attention.bias" in opened(tmp_path, tensors, block(4, 32, "gptq_v2")).tensors


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("label", ["gptq", "gptq_v2"])
def test_values_outvote_a_label_that_lies(bits, version, label, tmp_path, rng):
    tensors = model_tensors(rng, bits, 32, version)
    truth = dequantized(
        opened(tmp_path / "true", tensors, block(bits, 32, ("gptq", "gptq_v2")[version - 1])).weights[
            next(iter(LINEARS))
        ]
    )
    model = opened(tmp_path / "labelled", tensors, block(bits, 32, label))
    np.testing.assert_array_equal(dequantized(model.weights[next(iter(LINEARS))]), truth)
    assert f"(v{version})" in model.notes[0]
    assert ("the values decide" in model.notes[0]) == (label != ("gptq", "gptq_v2")[version - 1])


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("stored", ["as it is", "less one"])
@pytest.mark.parametrize("label", ["gptq", "gptq_v2"])
def test_symmetric_zero_points_are_the_middle_whatever_the_label(bits, stored, label, tmp_path, rng):
    q = rng.integers(0, 2**bits, (64, 64))
    q[q == 0] = 1 if bits > 2 else 0
    zeros = np.full((64, 2), 2 ** (bits - 1))
    parts = packed(q, zeros, np.ones((64, 2)), bits, version=1 if stored == "less one" else 2)
    weight = one_layer(tmp_path, parts, block(bits, 32, label, sym=True), rng)
    assert np.all(weight.read().zero == 2 ** (bits - 1))


def test_a_middle_that_is_stored_is_the_zero_point_even_of_a_lopsided_weight(tmp_path, rng):
    parts = packed(rng.integers(6, 13, (64, 64)), np.full((64, 2), 8), np.ones((64, 2)), 4)  # 9 in the mean
    weight = one_layer(tmp_path, parts, block(4, 32, "gptq"), rng)
    assert np.all(weight.read().zero == 8)


def test_ternary_codes_about_one_are_not_taken_for_a_symmetric_grid(tmp_path, rng):
    parts = packed(rng.integers(0, 3, (64, 64)), np.ones((64, 2), int), np.ones((64, 2)), 2)
    weight = one_layer(tmp_path, parts, block(2, 32, "gptq_v2"), rng)
    assert np.all(weight.read().zero == 1)


def test_planar_words_are_read(tmp_path, rng):
    q, zeros, scales = gaussian(rng, 64, 64, 6, 32)
    weight = one_layer(tmp_path, packed(q, zeros, scales, 6, pack=slow.planar), block(6, 32, "gptq_p"), rng)
    np.testing.assert_array_equal(weight.read().q, q)


def test_widths_may_differ_by_module(tmp_path, rng):
    tensors = model_tensors(rng, 4, 32)
    down = "model.layers.0.mlp.down_proj"
    parts = packed(*gaussian(rng, *LINEARS[down], 8, 16), 8)
    tensors |= {f"{down}.{part}": tensor for part, tensor in parts.items()}
    dynamic = {r"-:lm_head": {}, r"+:.*\.down_proj$": {"bits": 8, "group_size": 16}, r".*_proj": {"bits": 4}}
    model = opened(tmp_path, tensors, block(4, 32, "gptq_v2", dynamic=dynamic))
    assert (model.weights[down].bits, model.weights[down].group_size) == (8, 16)
    assert model.weights["model.layers.0.mlp.up_proj"].bits == 4


def test_a_bias_and_a_bfloat16_scale_are_kept(tmp_path, rng):
    name = "model.layers.0.self_attn.q_proj"
    tensors = model_tensors(rng, 4, 32)
    tensors[f"{name}.bias"] = np.ones(64, np.float16)
    tensors[f"{name}.scales"] = bfloat16(tensors[f"{name}.scales"])
    model = opened(tmp_path, tensors, block(4, 32, "gptq_v2"))
    assert f"{name}.bias" in model.tensors
    step = model.weights[name].read().step
    assert step.dtype == np.float32
    np.testing.assert_array_equal(step, tensors[f"{name}.scales"].T.astype(np.float32))


def test_a_file_of_autogptq_beside_the_config_is_enough(tmp_path, rng):
    path, config = save(tmp_path, model_tensors(rng, 4, 32, 1), None, files=["tokenizer.json"])
    (path / "quantize_config.json").write_text('{"bits": 4, "group_size": 32, "desc_act": false, "sym": false}')
    assert recognises(path, config)
    model = open_gptq(path, config)
    assert len(model.weights) == len(LINEARS)
    assert model.files() == {"tokenizer.json": path / "tokenizer.json"}


Q = "model.layers.0.self_attn.q_proj"


def without(part):
    return lambda tensors: tensors.pop(f"{Q}.{part}")


def put(part, make):
    def change(tensors):
        tensors[f"{Q}.{part}"] = make(tensors.get(f"{Q}.{part}"))

    return change


DAMAGED = {
    "no scales": (without("scales"), {}, f"{Q}.scales: missing"),
    "no zero points": (without("qzeros"), {}, f"{Q}.qzeros: missing"),
    "no integers": (without("qweight"), {}, f"{Q}.qzeros: I32"),
    "scales of another shape": (put("scales", lambda t: t[:, :32]), {}, f"{Q}.scales: expected F16"),
    "integers of another type": (put("qweight", lambda t: t.astype(np.int64)), {}, f"{Q}.qweight: expected I32"),
    "bits that lie": (lambda tensors: None, {"bits": 8}, "config.json says 8 bits, but shapes say 4"),
    "groups that lie": (lambda tensors: None, {"group_size": 64}, "has 3 groups of scales for 96 inputs"),
    "empty groups": (lambda tensors: None, {"group_size": 0}, "expected a group_size of 16, a multiple of 32"),
    "odd groups": (lambda tensors: None, {"group_size": 40}, "groups of 40; expected 16 or a multiple of 32"),
    "no width": (lambda tensors: None, {"bits": "four"}, "quantization_config.bits: expected a whole number"),
    "marlin": (lambda tensors: None, {"checkpoint_format": "marlin"}, "got 'marlin'; save the model as gptq"),
    "a rotation": (lambda tensors: None, {"rotation": "hadamard"}, "quantization_config.rotation: the model computes"),
    "a pattern that is none": (lambda tensors: None, {"dynamic": {"+:(": {}}}, "is not a regular expression"),
    "a module left out": (lambda tensors: None, {"dynamic": {"-:.*q_proj": {}}}, "dynamic leaves .* out"),
    "a plain weight too": (put("weight", lambda _: np.ones((64, 64), np.float16)), {}, "not expected beside"),
    "a tensor of another format": (put("weight_packed", lambda _: np.ones((64, 8), np.int32)), {}, "belongs to no"),
    "a tensor that nobody knows": (put("spin", lambda _: np.ones(3, np.int16)), {}, "belongs to no weight of gptq"),
    "nothing packed": (
        lambda tensors: [tensors.pop(n) for n in list(tensors) if n.split(".")[-1][:2] in ("qw", "qz", "sc")],
        {},
        "no tensor holds a packed weight",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_directory_is_one_error(case, tmp_path, rng):
    change, values, message = DAMAGED[case]
    tensors = model_tensors(rng, 4, 32)
    change(tensors)
    with pytest.raises(InputError, match=message):
        opened(tmp_path, tensors, block(4, 32, "gptq_v2") | values)


@pytest.mark.parametrize(
    ("g_idx", "message"),
    [
        (np.full(64, 2), "expected groups 0 to 1, got 2 to 2"),
        (-np.ones(64, int), "expected groups 0 to 1, got -1"),
        (np.arange(64) // 40, "group 0 has 40 inputs, expected 32"),
    ],
)
def test_a_group_index_that_is_none_is_one_error(g_idx, message, tmp_path, rng):
    parts = packed(*gaussian(rng, 64, 64, 4, 32), 4, g_idx=g_idx)
    weight = one_layer(tmp_path, parts, block(4, 32, "gptq_v2"), rng)
    with pytest.raises(InputError, match=message):
        weight.read()


def test_a_group_index_of_another_length_is_one_error(tmp_path, rng):
    parts = packed(*gaussian(rng, 64, 64, 4, 32), 4, g_idx=np.arange(32) // 32)
    with pytest.raises(InputError, match=r"g_idx: expected I32 or I64 \[64\]"):
        one_layer(tmp_path, parts, block(4, 32, "gptq_v2"), rng)


def test_a_key_given_twice_is_one_error(tmp_path, rng):
    path, config = save(tmp_path, model_tensors(rng, 4, 32), block(4, 32))
    text = (path / "config.json").read_text().replace('"bits": 4', '"bits": 4, "bits": 8')
    (path / "config.json").write_text(text)
    with pytest.raises(InputError, match='"bits" is given twice'):
        open_gptq(path, config)


@pytest.mark.parametrize("expression", ["(m+)+x", "(a|a)*x", "((a+)b)*", "(.*)*", "(?:a*){5}", "(a(b|c)d)+", ".*" * 9])
def test_patterns_that_could_search_for_ever_are_refused(tmp_path, expression):
    config_block = block(4, 32, dynamic={expression: {"bits": 4}})
    with pytest.raises(InputError, match="could take for ever to match"):
        open_gptq(*save(tmp_path, model_tensors(np.random.default_rng(1), 4, 32), config_block))


@pytest.mark.parametrize(
    "expression", [r"-:.*lm_head", r".*layers\.(7|8)\..*(?:gate|up).*", r"((((q))))+_proj", r"\(a+\)+", r"[+*(]+x"]
)
def test_patterns_of_published_models_are_taken(tmp_path, expression):
    config_block = block(4, 32, dynamic={expression: {"bits": 4}})
    assert open_gptq(*save(tmp_path, model_tensors(np.random.default_rng(1), 4, 32), config_block)).weights
