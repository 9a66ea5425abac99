"""LongRoPE: all keys of a sequence rotate by the same factors, however its tokens were fed.

The reference is transformers on the whole sequence at once. Weights lie on a 4-bit grid, which the fit stores exactly.
"""

from itertools import pairwise

import numpy as np
import onnx
import pytest
import torch
import transformers

from dualbinary import InputError
from dualbinary.__main__ import main as dualbinary
from exporter.options import ExportOptions
from exporter.pipeline import export
from runtime_ext import decoder as decoder_module
from runtime_ext.decoder import Decoder
from runtime_ext.generate import Generation, generate
from runtime_ext.sampling import Sampler
from runtime_ext.speculation import DraftGuesser, NgramGuesser, Speculation
from tests.support.pace import Always

SWITCH = 20
CONTEXT = 64
# Rounding of float32 alone; by the other factors for some of the keys the logits differ by more than 1e-2.
TOLERANCE = 1e-3
TOKENS = np.random.default_rng(1).integers(3, 256, CONTEXT).tolist()
KEY = "dualbinary.long_rope_after"


def make(directory, head_size=32, **values):
    half = head_size // 2
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0 + 0.05 * i for i in range(half)],
        "long_factor": [1.0 + 0.8 * i for i in range(half)],
    }
    torch.manual_seed(0)
    config = transformers.Phi3Config(
        vocab_size=256,
        hidden_size=4 * head_size,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=160,
        max_position_embeddings=CONTEXT,
        original_max_position_embeddings=SWITCH,
        rope_parameters=rope | {"original_max_position_embeddings": SWITCH},
        eos_token_id=None,
        pad_token_id=0,
        **values,
    )
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randint(-8, 8, parameter.shape) / 64)
    model.save_pretrained(directory)
    return model.eval()


@pytest.fixture(scope="module", params=[32, 36], ids=["shared cache", "growing cache"])
def model(request, tmp_path_factory):
    """The model of transformers and the path of its export."""
    directory = tmp_path_factory.mktemp("long_rope")
    reference = make(directory / "model", head_size=request.param)
    out = directory / "out" / "model.onnx"
    export(directory / "model", out, ExportOptions(embedding_bits=32))
    return reference, out


@pytest.fixture(autouse=True)
def short_pieces(monkeypatch):
    monkeypatch.setattr(decoder_module, "PROMPT_CHUNK", 8)


@torch.inference_mode()
def wanted(reference, length):
    return reference(torch.tensor([TOKENS[:length]])).logits[0, -1].numpy()


def assert_close(actual, expected):
    assert np.abs(actual - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize("length", [SWITCH - 1, SWITCH, SWITCH + 1, 24, 25, 50])
def test_a_prompt_in_pieces_equals_the_whole(model, length):
    reference, out = model
    decoder = Decoder.load(out)
    decoder.start(length)
    assert_close(decoder.step(TOKENS[:length]), wanted(reference, length))


@pytest.mark.parametrize("step", [1, 3, 11])
def test_a_sequence_that_grows_longer_is_read_again(model, step):
    reference, out = model
    decoder = Decoder.load(out)
    decoder.start(CONTEXT)
    decoder.step(TOKENS[:15])
    for end in range(15 + step, 35, step):
        assert_close(decoder.step(TOKENS[end - step : end]), wanted(reference, end))


@pytest.mark.parametrize("ends", [[SWITCH - 2], [SWITCH + 13], [15, 30], [15, 18, 21]])
def test_every_token_has_the_logits_that_the_whole_gives_it(model, ends):
    reference, out = model
    decoder = Decoder.load(out)
    decoder.start(CONTEXT)
    for begin, end in pairwise([0, *ends]):
        rows = np.concatenate(list(decoder.step_each(TOKENS[begin:end])))
        with torch.inference_mode():
            assert_close(rows, reference(torch.tensor([TOKENS[:end]])).logits[0, begin:].numpy())


def test_a_model_of_one_tokens_logits_says_each_up_to_the_switch_alone(model, tmp_path):
    _, out = model
    last = tmp_path / "out" / "model.onnx"
    export(out.parent.parent / "model", last, ExportOptions(embedding_bits=32, verify_tokens=0))
    decoder = Decoder.load(last)
    decoder.start(CONTEXT)
    assert len(list(decoder.step_each(TOKENS[:SWITCH]))) == SWITCH
    decoder.start(CONTEXT)
    with pytest.raises(InputError, match="export it anew with --logits all"):
        list(decoder.step_each(TOKENS[: SWITCH + 1]))


def test_a_new_sequence_begins_with_the_short_factors(model):
    reference, out = model
    decoder = Decoder.load(out)
    for length in (30, 10):
        decoder.start(CONTEXT)
        assert_close(decoder.step(TOKENS[:length]), wanted(reference, length))
    for end in range(11, 25):
        assert_close(decoder.step(TOKENS[end - 1 : end]), wanted(reference, end))


def test_generation_equals_that_of_transformers(model):
    reference, out = model
    prompt = TOKENS[:15]
    ids = torch.tensor([prompt])
    expected = reference.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False)
    assert list(generate(Decoder.load(out), prompt, 20, Sampler(), Generation([]))) == expected[0, 15:].tolist()


def test_static_steps_switch_as_others(model):
    reference, out = model
    if not Decoder.load(out).config.share_buffer:
        pytest.skip("a growing cache has no static steps")
    decoder = Decoder.load(out, static_steps=True)
    decoder.start(CONTEXT)
    decoder.step(TOKENS[:15])
    for end in range(16, 30):
        assert_close(decoder.step(TOKENS[end - 1 : end]), wanted(reference, end))


def test_the_file_states_the_length_in_every_layout(model, tmp_path):
    _, out = model
    other = tmp_path / "model.onnx"
    assert dualbinary(["relayout", str(out), str(other), "--layout", "avx2"]) == 0
    for path in (out, other):
        loaded = onnx.load(path, load_external_data=False)
        assert {entry.key: entry.value for entry in loaded.metadata_props}[KEY] == str(SWITCH)


def test_other_models_state_none(pristine_model, fitted):
    _, out = fitted(pristine_model("phi3"))
    assert KEY not in {entry.key for entry in onnx.load(out, load_external_data=False).metadata_props}


def test_guesses_stop_before_the_switch_and_go_on_after_it(model):
    reference, out = model
    decoder = Decoder.load(out)
    decoder.start(CONTEXT)
    decoder.step(TOKENS[: SWITCH - 3])
    assert decoder.verify_limit == 3
    rows = decoder.verify(TOKENS[SWITCH - 3 : SWITCH])
    assert_close(rows[0], wanted(reference, SWITCH - 2))
    decoder.rewind(SWITCH - 2)
    decoder.verify(TOKENS[SWITCH - 2 : SWITCH])
    assert decoder.verify_limit == 0
    assert_close(decoder.step([TOKENS[SWITCH]]), wanted(reference, SWITCH + 1))  # all of it is read again
    assert decoder.verify_limit == 8
    rows = decoder.verify(TOKENS[SWITCH + 1 : SWITCH + 4])
    assert_close(rows[-1], wanted(reference, SWITCH + 4))
    decoder.rewind(SWITCH + 2)
    assert_close(decoder.step([TOKENS[SWITCH + 2]]), wanted(reference, SWITCH + 3))
    with pytest.raises(InputError, match=f"changed after {SWITCH} tokens"):
        decoder.rewind(SWITCH)


@pytest.mark.parametrize("guessing", ["text", "draft"])
def test_speculation_writes_across_the_switch_what_single_steps_write(model, guessing):
    _, out = model
    decoder, draft, pace = Decoder.load(out), Decoder.load(out), Always()
    guesser = NgramGuesser(sizes=(2, 1)) if guessing == "text" else DraftGuesser(draft, decoder, pace)
    plain, guessed = Generation([]), Generation([])
    list(generate(decoder, TOKENS[:10], 40, Sampler(), plain))
    list(generate(decoder, TOKENS[:10], 40, Sampler(), guessed, Speculation(decoder, guesser, pace)))
    assert guessed.tokens == plain.tokens
    assert guessed.accepted > 0
