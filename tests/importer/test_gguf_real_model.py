"""SmolLM2 straight from its GGUF file: what transformers makes of the same file."""

import json
from typing import Any

import numpy as np
import pytest
import transformers

from examples import smollm2
from importer.checkpoint import write_model
from importer.convert.checkpoint_source import open_checkpoint
from importer.convert.gguf.write import write_gguf
from importer.readers.gguf import open_gguf
from importer.readers.gguf.container import open_container
from tests.support.gguf_files import dequantized

pytestmark = pytest.mark.real_model

TEXTS = (
    "The capital of France is",
    " two  blanks, tabs\t\tand\n\n\nlines ",
    "In 2026, 3.14159 and 100,000 are numbers: 1234567890",
    "Größe, naïve, 東京, Привет, 🙂👍🏽, ﬁ",
    "def f(x):\n    return x**2  # it's they'll I'd",
    "<|im_start|>user\nHello<|im_end|>\n<|endoftext|>",
    "",
)
DIGITS = "Steps:\n\n1. Wash  20 plates"
DIGITS_APART = ["Steps", ":", "ĊĊ", "1", ".", "ĠWash", "ĠĠ", "2", "0", "Ġplates"]


@pytest.fixture(scope="module")
def opened():
    return open_gguf(smollm2.fetch_gguf(), {})


@pytest.fixture
def tokenizer(opened, tmp_path) -> Any:
    for name, content in opened.files().items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    (tmp_path / "config.json").write_text(json.dumps(opened.config))
    return transformers.AutoTokenizer.from_pretrained(tmp_path)


@pytest.mark.slow
def test_weights_are_those_that_transformers_dequantizes(opened):
    file = smollm2.fetch_gguf()
    config = transformers.GgufConfig(dequantize=True)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, quantization_config=config, dtype="float32"
    )
    assert {weight.kind for weight in opened.weights.values()} == {"Q4_1", "Q8_0"}
    seen = set()
    for module, weight in opened.weights.items():
        numbers = weight.read()
        assert numbers.rounding == 0
        assert np.array_equal(dequantized(numbers), model.get_submodule(module).weight.detach().numpy()), module
        seen.add(f"{module}.weight")
    for name, tensor in opened.tensors.items():
        assert np.array_equal(tensor.read(), model.get_parameter(name).detach().numpy()), name
        seen.add(name)
    assert seen == {name for name, _ in model.named_parameters()}


def test_the_configuration_is_that_of_the_unpacked_directory(opened):
    directory = smollm2.prepare()
    theirs = json.loads((directory / "config.json").read_text())
    for name in ("_model_name_or_path", "transformers_version", "dtype", "unk_token_id"):  # say nothing of the model
        del theirs[name]
    assert opened.config == theirs
    generation = json.loads(opened.files()["generation_config.json"])
    theirs = json.loads((directory / "generation_config.json").read_text())
    assert generation.items() <= theirs.items()


def test_the_tokenizer_is_that_of_transformers_where_no_digit_follows_two_blanks(tokenizer):
    file = smollm2.fetch_gguf()
    theirs: Any = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    for text in TEXTS:
        assert tokenizer(text).input_ids == theirs(text).input_ids, text
        assert tokenizer.decode(tokenizer(text).input_ids) == theirs.decode(theirs(text).input_ids)
    assert tokenizer.special_tokens_map == theirs.special_tokens_map
    messages = [{"role": "user", "content": "Hello"}]
    shown = [each.apply_chat_template(messages, tokenize=False) for each in (tokenizer, theirs)]
    assert shown[0] == shown[1]


def test_digits_are_cut_out_first_as_in_the_published_tokenizer(tokenizer):
    split = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("\n\n1")
    assert split == [("ĊĊ", (0, 2)), ("1", (2, 3))]
    assert tokenizer.convert_ids_to_tokens(tokenizer(DIGITS).input_ids) == DIGITS_APART
    assert tokenizer.decode(tokenizer(DIGITS).input_ids) == DIGITS


@pytest.mark.slow
def test_it_goes_back_into_the_file_it_was(opened, tmp_path):
    write_model(opened, tmp_path / "checkpoint")
    write_gguf(open_checkpoint(tmp_path / "checkpoint"), tmp_path / "back.gguf", progress=lambda weights: None)
    first, second = open_container(smollm2.fetch_gguf()), open_container(tmp_path / "back.gguf")
    assert first.tensors.keys() == second.tensors.keys()
    for name, tensor in first.tensors.items():
        assert second.tensors[name].type == tensor.type, name
        assert np.array_equal(second.tensors[name].data, tensor.data), name
    for key in (
        "pre",
        "tokens",
        "token_type",
        "merges",
        "bos_token_id",
        "eos_token_id",
        "padding_token_id",
        "add_bos_token",
    ):
        assert np.array_equal(*(each.metadata[f"tokenizer.ggml.{key}"] for each in (first, second))), key
