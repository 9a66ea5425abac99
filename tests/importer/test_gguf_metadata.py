"""What the metadata of a GGUF file says, and how a file ends that says too little, too much or something else."""

import json
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np
import pytest
import transformers

from dualbinary import InputError
from importer.readers import open_model
from tests.support.gguf_files import SENTENCEPIECE, TOKENIZER, Type, stored_tensors, tiny_model, write_tiny_model

F32 = np.zeros(128, np.float32)
NONE = dict.fromkeys(stored_tensors(tiny_model("llama")))  # all tensors left out


def opened(tmp_path: Path, name: str = "llama", **changes: Any) -> Any:
    write_tiny_model(tmp_path / "model.gguf", name, **changes)
    return open_model(tmp_path / "model.gguf")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no layers": ({"keys": {"llama.block_count": None}}, "no llama.block_count, which says what the model is"),
    "text for a number": ({"keys": {"llama.context_length": "64"}}, "expected a whole number of at least 1, got '64'"),
    "no heads": ({"keys": {"llama.attention.head_count": 0}}, "expected a whole number of at least 1, got 0"),
    "an endless epsilon": (
        {"keys": {"llama.attention.layer_norm_rms_epsilon": float("inf")}},
        "expected a number above 0, got inf",
    ),
    "layers without tensors": ({"keys": {"llama.block_count": 10**9}}, "as many as there are tensors, got 1000000000"),
    "one layer more": ({"keys": {"llama.block_count": 3}}, "no tensor 'blk.2.attn_q.weight'"),
    "one layer less": ({"keys": {"llama.block_count": 1}}, "tensor 'blk.1.attn_q.weight' is not known"),
    "another width": ({"keys": {"llama.embedding_length": 64}}, "expected"),
    "absurd heads": ({"keys": {"llama.attention.head_count": 1 << 31}}, "expected"),
    "other values than keys": ({"keys": {"llama.attention.value_length": 16}}, "expected 32, as that of keys, got 16"),
    "another family": ({"keys": {"general.architecture": "clip"}}, "architecture 'clip'; this release reads llama, "),
    "no family": ({"keys": {"general.architecture": ""}}, "general.architecture: expected the name of one"),
    "part of a rotation": (
        {"keys": {"prism.hadamard.block_size": 128}},
        "prism.hadamard.version: expected a whole num",
    ),
    "another rotation": ({"keys": {"prism.givens.angle": 2}}, "declares a rotation that this release does not know"),
    "a rotation of the family": ({"keys": {"llama.rotation.kind": "x"}}, "declares a rotation"),
    "experts": ({"keys": {"llama.expert_count": 8}}, "llama.expert_count = 8: this release does not know"),
    "a softcap": ({"keys": {"llama.final_logit_softcapping": 30.0}}, "does not know what it means for a model of type"),
    "a window": ({"keys": {"llama.attention.sliding_window": 8}}, "llama.attention.sliding_window = 8"),
    "part of a head rotates": ({"keys": {"llama.rope.dimension_count": 16}}, "expected 32, as wide as a head, got 16"),
    "an unknown scaling": (
        {"keys": {"llama.rope.scaling.type": "wave", "llama.rope.scaling.factor": 2.0}},
        "expected none, linear, yarn or longrope, got 'wave'",
    ),
    "other factors": (
        {"tensors": {"rope_freqs.weight": (Type.F32, np.linspace(1, 8, 16, dtype=np.float32))}},
        "are not those of Llama 3's scaling",
    ),
    "factors of another length": (
        {"tensors": {"rope_freqs.weight": (Type.F32, F32)}},
        "expected F32 [16], a factor for each pair",
    ),
    "factors of 0": ({"tensors": {"rope_freqs.weight": (Type.F32, F32[:16])}}, "expected finite factors above 0"),
    "long factors alone": (
        {"tensors": {"rope_factors_long.weight": (Type.F32, F32[:16] + 1)}},
        "expected both rope_factors_long.weight and rope_factors_short.weight, got one",
    ),
    "a tensor of another model": (
        {"tensors": {"blk.0.attn_gate.weight": (Type.F32, F32)}},
        "tensor 'blk.0.attn_gate.weight' is not known in a model of type llama",
    ),
    "no embeddings": ({"tensors": {"token_embd.weight": None}}, "the file holds no language model"),
    "keys alone": ({"tensors": NONE}, "the file holds no language model"),
    "no norm": ({"tensors": {"output_norm.weight": None}}, "no tensor 'output_norm.weight'"),
    "a short norm": (
        {"tensors": {"output_norm.weight": (Type.F32, F32[:64])}},
        "expected [128] by the metadata, got [64]",
    ),
    "a quantized norm": (
        {"tensors": {"output_norm.weight": (Type.Q8_0, F32)}},
        "expected plain numbers (F32, F16, BF16) for 'model.norm.weight'",
    ),
    "a weight of whole numbers": (
        {"tensors": {"blk.0.ffn_up.weight": (Type.I8, np.zeros((160, 128), np.int8))}},
        "or a type of weights for 'model.layers.0.mlp.up_proj.weight'",
    ),
    "an end beyond the tokens": ({"keys": {"tokenizer.ggml.eos_token_id": 256}}, "expected a token of 256, got 256"),
    "too few tokens": (
        {"keys": {"tokenizer.ggml.tokens": TOKENIZER["tokenizer.ggml.tokens"][:200]}},
        "expected 256 tokens, as many as embeddings, got 200",
    ),
    "tokens of numbers": (
        {"keys": {"tokenizer.ggml.tokens": [1, 2, 3]}},
        "tokenizer.ggml.tokens: expected a list of texts",
    ),
    "scores of few tokens": (
        {"keys": SENTENCEPIECE | {"tokenizer.ggml.scores": [0.0]}},
        "tokenizer.ggml.scores: expected 256 numbers, one for each token, got 1",
    ),
    "kinds of few tokens": (
        {"keys": {"tokenizer.ggml.token_type": [1, 1]}},
        "tokenizer.ggml.token_type: expected 256 numbers, one for each token, got 2",
    ),
    "one kind for all tokens": ({"keys": {"tokenizer.ggml.token_type": 1}}, "one for each token, got 1"),
    "a template that is a number": ({"keys": {"tokenizer.chat_template": 5}}, "chat_template: expected a text, got 5"),
    "a split that is a list": ({"keys": {"tokenizer.ggml.pre": [1, 2]}}, "tokenizer.ggml.pre: expected a text, got"),
    "a merge of one part": (
        {"keys": {"tokenizer.ggml.merges": ["a"]}},
        "cannot convert its tokenizer",
    ),
    "a base that is no number": (
        {"keys": {"llama.rope.freq_base": float("nan")}},
        "llama.rope.freq_base: expected a number above 0, got nan",
    ),
    "heads by layer": (
        {"keys": {"llama.attention.head_count_kv": [2, 1]}},
        "llama.attention.head_count_kv: expected a whole number of at least 1",
    ),
    "an unknown tokenizer": ({"keys": {"tokenizer.ggml.model": "wordlist"}}, "cannot convert its tokenizer"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_one_error(name, tmp_path, monkeypatch):
    changes, message = REFUSED[name]
    if any(content and content[1].dtype == np.int8 for content in changes.get("tensors", {}).values()):
        monkeypatch.setattr(gguf, "quantize", lambda values, kind: values)
    with pytest.raises(InputError) as caught:
        opened(tmp_path, **changes).files()
    assert str(caught.value).startswith(f"{tmp_path / 'model.gguf'}: ")
    assert message in str(caught.value)


def test_keys_that_change_nothing_are_named_in_a_note(tmp_path):
    keys = {"llama.expert_count": 0, "llama.vocab_size": 256, "llama.fortune": "good", "general.fortune": "none"}
    model = opened(tmp_path, keys=keys)
    assert len(model.notes) == 1
    assert model.notes[0].endswith("leaves out: llama.expert_count, llama.fortune")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (None, {"rope_type": "linear", "factor": 4.0}),  # older files give the factor alone
        ("linear", {"rope_type": "linear", "factor": 4.0}),
        ("none", {"rope_type": "default"}),
    ],
)
def test_a_factor_scales_unless_the_file_says_none(kind, expected, tmp_path):
    model = opened(tmp_path, keys={"llama.rope.scaling.type": kind, "llama.rope.scaling.factor": 4.0})
    assert model.config["rope_parameters"] == expected | {"rope_theta": 5000.0}


@pytest.mark.parametrize("name", ["llama", "llama of wide heads"])
def test_the_head_is_tied_where_the_file_has_none(name, tmp_path):
    model = opened(tmp_path, name)
    assert model.config["tie_word_embeddings"] == ("lm_head.weight" not in model.tensors)
    assert ("lm_head.weight" in model.tensors) == (name == "llama")


def test_plain_tensors_keep_their_type(tmp_path):
    model = opened(tmp_path, types=lambda name: Type.F16 if "embd" in name else Type.BF16)
    assert model.tensors["model.embed_tokens.weight"].dtype == np.float16
    up = model.tensors["model.layers.0.mlp.up_proj.weight"]
    assert up.dtype == ml_dtypes.bfloat16
    assert up.read().dtype == ml_dtypes.bfloat16
    assert model.weights == {}


@pytest.mark.parametrize("kind", [Type.IQ4_NL, Type.MXFP4])
def test_levels_that_are_not_even_can_be_dequantized(kind, tmp_path):
    random = np.random.default_rng(0)
    rows = np.arange(128)  # a scale of each row tells them apart
    size = gguf.GGML_QUANT_SIZES[kind][1]
    data = random.integers(0, 256, (128, 4, size), dtype=np.uint8)
    if kind == Type.IQ4_NL:
        data[:, :, :2] = (1 + rows / 128).astype("<f2").view(np.uint8).reshape(128, 1, 2)
    else:
        data[:, :, 0] = 120 + rows[:, None] % 8
    data = data.reshape(128, -1)
    model = opened(tmp_path, tensors={"blk.0.attn_q.weight": (kind, data), "blk.0.attn_output.weight": (kind, data)})
    values = gguf.dequantize(data, kind)
    output, query = (model.inexact[f"model.layers.0.self_attn.{name}"] for name in ("o_proj", "q_proj"))
    assert (output.kind, output.N, output.K) == (kind.name, 128, 128)
    assert output.source_bits == size / 4
    assert np.array_equal(output.read(), values)
    # four heads of 32 rows: those of the first and the second half of a head are stored in turns
    assert np.array_equal(query.read(), values.reshape(4, 16, 2, 128).swapaxes(1, 2).reshape(128, 128))


@pytest.mark.parametrize("kind", [Type.NVFP4, Type.Q8_K])
def test_types_that_nobody_dequantizes_have_no_way_out(kind, tmp_path):
    weights, size = gguf.GGML_QUANT_SIZES[kind]
    shapes = {"gate": (256, 128), "up": (256, 128), "down": (128, 256)}
    tensors: dict[str, Any] = {
        f"blk.{layer}.ffn_{part}.weight": (Type.F32, np.zeros(shape, np.float32))
        for layer in (0, 1)
        for part, shape in shapes.items()
    }
    tensors["blk.0.ffn_down.weight"] = (kind, np.zeros((128, 256 // weights * size), np.uint8))
    model = opened(tmp_path, keys={"llama.feed_forward_length": 256}, tensors=tensors)
    weight = model.inexact["model.layers.0.mlp.down_proj"]
    assert (weight.kind, weight.N, weight.K, weight.read) == (kind.name, 128, 256, None)


def test_generation_ends_at_the_end_of_a_turn_too(tmp_path):
    model = opened(tmp_path)
    assert json.loads(model.files()["generation_config.json"]) == {
        "bos_token_id": 1,
        "pad_token_id": 0,
        "eos_token_id": [2, 3],
    }


def tokenizer_of(model: Any, directory: Path) -> Any:
    for name, content in model.files().items():
        (directory / name).write_text(content, encoding="utf-8")
    (directory / "config.json").write_text(json.dumps(model.config))
    return transformers.AutoTokenizer.from_pretrained(directory)


def test_the_tokenizer_is_that_of_the_metadata(tmp_path):
    tokenizer = tokenizer_of(opened(tmp_path, keys={"tokenizer.ggml.add_bos_token": True}), tmp_path)
    tokens = TOKENIZER["tokenizer.ggml.tokens"]
    expected = ["<s>", "the", "Ġthe", "o", "<|im_end|>", "x"]
    assert tokenizer("the theo<|im_end|>x").input_ids == [tokens.index(token) for token in expected]
    assert len(tokenizer) == 256
    assert max(tokenizer("<|endoftext|>").input_ids) < 256  # transformers' GPT-2 class adds this one to any vocabulary
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<s>", "</s>", "<pad>")
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi"


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, ["<s>", "▁the", "▁", "x", "</s>", "the"]),
        ({"tokenizer.ggml.add_space_prefix": True}, ["<s>", "▁the", "▁", "x", "</s>", "the"]),
        ({"tokenizer.ggml.add_space_prefix": False}, ["<s>", "the", "▁", "x", "</s>", "the"]),
        ({"tokenizer.ggml.add_bos_token": False}, ["▁the", "▁", "x", "</s>", "the"]),
    ],
)
def test_a_sentencepiece_vocabulary_begins_a_text_as_the_file_says(keys, expected, tmp_path):
    tokenizer = tokenizer_of(opened(tmp_path, keys=SENTENCEPIECE | keys), tmp_path)
    ids = tokenizer("the x</s>the").input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == expected
    assert len(tokenizer) == 256
    assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == "thexthe"


@pytest.mark.parametrize(("flag", "expected"), [(None, ["<s>", "the"]), (True, ["<s>", "the"]), (False, ["the"])])
def test_a_vocabulary_of_gemma_4_begins_a_text_unless_the_file_says_no(flag, expected, tmp_path):
    keys = {"tokenizer.ggml.model": "gemma4", "tokenizer.ggml.add_bos_token": flag}
    tokenizer = tokenizer_of(opened(tmp_path, keys=SENTENCEPIECE | keys), tmp_path)
    assert tokenizer.convert_ids_to_tokens(tokenizer("the").input_ids) == expected


MORE = ["Ċ", "ĊĊ", "'the", "ab", "abc"]  # in place of the last tokens
WORDS: dict[str, Any] = {
    "tokenizer.ggml.tokens": [*TOKENIZER["tokenizer.ggml.tokens"][: -len(MORE)], *MORE],
    "tokenizer.ggml.token_type": [*TOKENIZER["tokenizer.ggml.token_type"][: -len(MORE)], *[1] * len(MORE)],
    "tokenizer.ggml.merges": [*TOKENIZER["tokenizer.ggml.merges"], "Ċ Ċ", "' the", "a b"],
}


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("gpt-2", ["Ċ", "Ċ", "1", "x", "'", "t", "h", "e"]),  # the last blank before a digit stands alone; 't is a word
        ("olmo", ["Ċ", "Ċ", "1", "x", "'", "t", "h", "e"]),
        ("smollm", ["ĊĊ", "1", "x", "'", "t", "h", "e"]),  # digits are cut out first
        ("starcoder", ["ĊĊ", "1", "x", "'", "t", "h", "e"]),
        ("refact", ["ĊĊ", "1", "x", "'", "t", "h", "e"]),
        ("command-r", ["ĊĊ", "1", "x", "'", "t", "h", "e"]),
        ("bloom", ["ĊĊ", "1", "x", "'the"]),  # whatever has no blank or punctuation mark
    ],
)
def test_a_text_is_split_as_the_file_says(split, expected, tmp_path):
    model = opened(tmp_path, keys=WORDS | {"tokenizer.ggml.pre": split})
    assert model.notes == ()
    tokenizer = tokenizer_of(model, tmp_path)
    assert tokenizer.convert_ids_to_tokens(tokenizer("\n\n1x'the").input_ids) == expected
    assert tokenizer.decode(tokenizer("\n\n1x'the").input_ids) == "\n\n1x'the"


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"tokenizer.ggml.pre": "llama-bpe"}, ["<s>", "abc"]),
        ({"tokenizer.ggml.pre": "lfm2"}, ["<s>", "abc"]),
        ({"tokenizer.ggml.pre": "tekken"}, ["<s>", "abc"]),
        ({"tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.add_bos_token": False}, ["abc"]),
        ({"tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.bos_token_id": None}, ["abc"]),
        ({"tokenizer.ggml.pre": "smaug-bpe"}, ["ab", "c"]),
        ({"tokenizer.ggml.pre": "qwen2"}, ["ab", "c"]),
    ],
)
def test_the_name_of_a_split_says_more_than_how_text_is_split(keys, expected, tmp_path):
    """Whether a text has a beginning where no key says so, and whether a word that is a token is one, merged or not."""
    tokenizer = tokenizer_of(opened(tmp_path, keys=WORDS | keys), tmp_path)
    assert tokenizer.convert_ids_to_tokens(tokenizer("abc").input_ids) == expected


@pytest.mark.parametrize(
    ("split", "shown"), [("of-tomorrow", "of-tomorrow"), ("default", "default"), (None, "default")]
)
def test_a_split_that_is_not_known_is_noted(split, shown, tmp_path):
    notes = opened(tmp_path, keys={"tokenizer.ggml.pre": split}).notes
    assert f"split as GPT-2 splits it, since this release does not know '{shown}'" in notes[0]


def test_what_the_tokenizer_leaves_out_is_noted(tmp_path):
    keys = {"tokenizer.ggml.pre": "of-tomorrow", "tokenizer.chat_template.tool_use": "{{ messages }}"}
    notes = opened(tmp_path, keys=keys).notes
    assert len(notes) == 2
    assert notes[1].endswith("are left out: tokenizer.chat_template.tool_use")
    without = opened(tmp_path, keys=dict.fromkeys(TOKENIZER) | {"tokenizer.ggml.model": "none"})
    assert "the file has no tokenizer" in without.notes[0]
    assert list(without.files()) == ["generation_config.json"]


def test_a_split_model_is_one_model(tmp_path):
    whole = opened(tmp_path)
    write_tiny_model(tmp_path / "split.gguf", "llama", split=8)
    parts = open_model(tmp_path / "split-00001-of-00003.gguf")
    assert (parts.config, parts.files(), parts.notes) == (whole.config, whole.files(), whole.notes)
    assert set(parts.tensors) == set(whole.tensors)
    for name, tensor in parts.tensors.items():
        assert np.array_equal(tensor.read(), whole.tensors[name].read())
