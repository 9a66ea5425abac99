"""What `--check` sees, and what it says of what it does not see."""

import json

import onnx
import pytest
import torch
import transformers
from onnx import helper
from tokenizers import Regex, normalizers

from dualbinary import DualBinaryError
from exporter.__main__ import main
from exporter.verify import check
from exporter.verify.lengths import plan
from exporter.verify.reference import Reference
from tests.support.tiny_models import edit_config
from tests.support.tiny_tokenizers import write_tokenizer

WINDOW = 50
HALF = 16  # of a head of the tiny models
LONG_ROPE = {
    "type": "longrope",
    "short_factor": [1.0 + 0.05 * i for i in range(HALF)],
    "long_factor": [1.0 + 0.8 * i for i in range(HALF)],
}


def long_rope(tiny_model, switch: int):
    directory = tiny_model("phi3")
    edit_config(directory, rope_parameters=None, rope_scaling=LONG_ROPE, original_max_position_embeddings=switch)
    return directory


def test_a_window_is_seen_from_both_sides(tiny_model, fitted, library):
    directory = tiny_model("mistral_window")
    edit_config(directory, sliding_window=WINDOW)
    result, out = fitted(directory)

    outcome = check(result, out, library)
    assert outcome.passed
    assert outcome.longest >= 2 * WINDOW
    assert [case.name for case in outcome.cases][1] == f"steps across sliding_window {WINDOW}"

    edit_config(directory, sliding_window=WINDOW + 1)  # as if the export had been made with another window
    outcome = check(result, out, library)
    assert not outcome.passed


def test_both_sides_of_a_switch_of_rotations_are_seen(tiny_model, fitted, library):
    directory = long_rope(tiny_model, 60)
    result, out = fitted(directory)

    outcome = check(result, out, library)
    assert outcome.passed, outcome
    assert outcome.longest > 60

    for name in ("short_factor", "long_factor"):
        edit_config(directory, rope_scaling=LONG_ROPE | {name: [1.5] * HALF})
        assert not check(result, out, library).passed


def test_padding_on_the_left_is_seen(pristine_model, fitted, library):
    result, out = fitted(pristine_model("llama"))
    model = onnx.load(str(out), load_external_data=False)
    for node in model.graph.node:  # all tokens count, as if nothing were padding
        node.input[:] = ["ones" if name == "attention_mask" else name for name in node.input]
    one = helper.make_node("Constant", [], ["one"], value_int=1)
    model.graph.node.insert(0, helper.make_node("Max", ["attention_mask", "one"], ["ones"]))
    model.graph.node.insert(0, one)
    onnx.save(model, str(out))

    outcome = check(result, out, library)

    assert not outcome.passed
    assert "padded" in outcome.worst.name
    assert outcome.cases[0].relative_error <= outcome.tolerance


@pytest.mark.parametrize(
    ("values", "tokens", "reached", "not_reached"),
    [
        ({}, 40, [], []),
        ({"sliding_window": 512}, 1032, ["sliding_window 512"], []),
        ({"sliding_window": 512, "use_sliding_window": False}, 40, [], []),
        ({"sliding_window": 512, "layer_types": ["full_attention"]}, 40, [], []),
        ({"sliding_window": 512, "max_position_embeddings": 600}, 600, ["sliding_window 512"], []),
        ({"sliding_window": 8192}, 40, [], ["sliding_window 8192"]),
        ({"rope_parameters": {"full": {"original_max_position_embeddings": 900}}}, 916,
         ["original_max_position_embeddings 900"], []),
        ({"sliding_window": 300, "rope_scaling": {"original_max_position_embeddings": 32768}}, 608,
         ["sliding_window 300"], ["original_max_position_embeddings 32768"]),
    ],
)  # fmt: skip
def test_a_check_is_as_long_as_the_model_asks_for_and_a_machine_allows(values, tokens, reached, not_reached):
    sizes = {"num_hidden_layers": 16, "hidden_size": 2048, "num_attention_heads": 32}

    found = plan(sizes | values, 1_000_000_000, 0)

    assert found.tokens == tokens
    assert list(map(str, found.reached)) == reached
    assert list(map(str, found.not_reached)) == not_reached
    longer = plan(sizes | values, 1_000_000_000, 0, 40_000)
    assert not longer.not_reached


def test_what_was_not_reached_is_said_with_the_option_that_reaches_it(tiny_model, tmp_path, capfd):
    directory = tiny_model("mistral_window")
    edit_config(directory, sliding_window=WINDOW)

    assert main([str(directory), str(tmp_path / "out" / "model.onnx"), "--check-tokens", "20", "--json"]) == 0

    said = capfd.readouterr()
    assert f"--check compared 20 tokens and did not reach sliding_window {WINDOW}; --check-tokens 108" in said.err
    outcome = json.loads(said.out)["check"]
    assert outcome["longest"] == 20
    assert outcome["not_reached"] == [f"sliding_window {WINDOW}"]


def test_the_distance_from_the_original_is_that_of_its_quantization(tiny_model, exported, library):
    directory = tiny_model("llama")
    result, out = exported(directory)
    rounded = check(result, out, library).original

    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:  # a grid of four bits, which planes hold exactly
                parameter.copy_(torch.randint(-8, 8, parameter.shape) / 64)
    model.save_pretrained(directory)
    result, out = exported(directory, embedding_bits=32)
    exact = check(result, out, library).original

    assert rounded is not None and exact is not None
    assert rounded.kl > 1e-3
    assert exact.kl < 1e-6


@pytest.mark.parametrize("kind", ["none", "beyond"])
def test_a_tokenizer_without_usable_ids_does_not_matter(tiny_model, fitted, library, kind):
    directory = tiny_model("llama")
    tokenizer = write_tokenizer(directory)
    if kind == "none":
        tokenizer.post_processor = None
        tokenizer.normalizer = normalizers.Replace(Regex(".*"), "")
        tokenizer.save(str(directory / "tokenizer.json"))
    else:
        text = json.loads(tokenizer.to_str())
        text["model"]["vocab"]["e"] = 1000  # the table has 256 rows
        (directory / "tokenizer.json").write_text(json.dumps(text))

    result, out = fitted(directory)

    assert check(result, out, library).passed


def test_weights_that_transformers_would_draw_are_refused(tiny_model):
    directory = tiny_model("llama")
    edit_config(directory, num_hidden_layers=3)

    with pytest.raises(DualBinaryError, match=r"finds no weights for model\.layers\.2\."):
        Reference(directory, directory)
