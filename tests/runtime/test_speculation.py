"""Several tokens a run: the text is that of a token a run, to the last token, whatever is guessed."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import runtime_ext
from dualbinary import InputError
from exporter.options import ExportOptions
from exporter.pipeline import export
from runtime_ext.__main__ import main
from runtime_ext.chat.conversation import Conversation, Turn
from runtime_ext.decoder import Decoder
from runtime_ext.generate import generate
from runtime_ext.generation import Generation
from runtime_ext.sampling import Sampler
from runtime_ext.speculation import DraftGuesser, Guess, NgramGuesser, Pace, Speculation
from tests.support import tiny_sessions as tiny
from tests.support.pace import Always
from tests.support.same_bits import assert_same_bits
from tests.support.tiny_models import VOCABULARY, make_model

PROMPT = [5, 6, 7, 8, 5, 6, 7, 9, 5, 6]
LIMIT = 40
SAMPLERS = {
    "greedy": {},
    "drawn": {"temperature": 1.5, "top_p": 0.95, "seed": 3},
    "penalized": {"repetition_penalty": 1.2, "frequency_penalty": 0.3},
}
# Options whose kernels give a token the same bits in a run of several as in a run of one.
FORMS = {
    "default": ("llama", ExportOptions()),
    "fp16": ("llama", ExportOptions(dtype="fp16")),
    "level 4": ("llama", ExportOptions(accuracy_level=4)),
    "two planes": ("llama", ExportOptions(planes=2, accuracy_level=4)),
    "all logits": ("llama", ExportOptions(logits="all")),
    "int8 cache": ("llama", ExportOptions(kv_cache="int8")),
    "window": ("gemma3_text", ExportOptions()),
}


def make(name, work, options=None) -> Decoder:
    source = make_model(name, work / "model")
    export(source, work / "out" / "model.onnx", options or ExportOptions(), library=runtime_ext.library_path())
    return Decoder.load(work / "out" / "model.onnx", threads=1)


@pytest.fixture(scope="module", params=FORMS)
def decoder(request, tmp_path_factory) -> Decoder:
    return make(FORMS[request.param][0], tmp_path_factory.mktemp("form"), FORMS[request.param][1])


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Decoder:
    return make("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Decoder:
    """A model with the same vocabulary that says other things."""
    return make("gpt2", tmp_path_factory.mktemp("other"))


@pytest.fixture(scope="module")
def stateful(tmp_path_factory) -> Decoder:
    return make("lfm2", tmp_path_factory.mktemp("stateful"))


def written(decoder, speculation=None, limit=LIMIT, **sampling) -> Generation:
    result = Generation([])
    assert list(generate(decoder, PROMPT, limit, Sampler(**sampling), result, speculation)) == result.tokens
    return result


def verified(decoder) -> int:
    """Tokens that the file says one run checks."""
    return int(decoder.session.get_modelmeta().custom_metadata_map["dualbinary.verify_tokens"])


class Scripted:
    """Guesses what `script` says comes after so many tokens."""

    longest = 7

    def __init__(self, script):
        self.script = script

    def start(self, prompt, capacity):
        self.tokens = list(prompt)

    def extend(self, tokens):
        self.tokens += tokens

    def look(self):
        return 0

    def guess(self, count, sampler):
        return Guess(self.script(len(self.tokens))[:count])


# Runs of several tokens


def test_a_token_has_the_same_bits_in_a_run_of_several_as_in_a_run_of_one(decoder):
    assert decoder.same_bits_limit == verified(decoder)
    assert_same_bits(decoder, VOCABULARY)


def steps_and_rows(decoder):
    """The logits after each token of the prompt: by steps of one, and by `step_each` in two parts."""
    decoder.start(LIMIT)
    steps = np.stack([decoder.step([token]) for token in PROMPT])
    decoder.start(LIMIT)
    rows = [row for part in (PROMPT[:3], PROMPT[3:]) for row in decoder.step_each(part)]
    return steps, rows


# Level 4 rounds activations to 8 bits, one way for up to three rows and another for more; float16 keeps 11 bits.
STEP_TOLERANCE = 2e-2


def test_logits_of_each_token_are_those_of_steps(decoder):
    steps, rows = steps_and_rows(decoder)
    assert max(len(part) for part in rows) == min(decoder.logits_per_run, 7)
    assert np.abs(np.concatenate(rows) - steps).max() <= STEP_TOLERANCE * np.abs(steps).max()


def test_a_model_with_states_says_the_logits_of_each_token_too(stateful):
    steps, rows = steps_and_rows(stateful)
    assert np.abs(np.concatenate(rows) - steps).max() <= STEP_TOLERANCE * np.abs(steps).max()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("llama", ExportOptions(planes=2, rotate=32)),
        ("llama", ExportOptions(fuse="none")),
        ("llama", ExportOptions(embedding_bits=16)),
        ("llama_head20", ExportOptions()),
        ("gpt2", ExportOptions()),
    ],
    ids=str,
)
def test_a_model_with_products_of_onnx_runtime_promises_no_bits(tmp_path, name, options):
    decoder = make(name, tmp_path, options)
    assert (decoder.same_bits_limit, decoder.verifies) == (0, True)


def test_no_more_bits_are_promised_than_kernels_keep(tmp_path):
    decoder = make("llama", tmp_path, ExportOptions(accuracy_level=4, verify_tokens=8))
    assert (decoder.same_bits_limit, verified(decoder)) == (3, 8)
    text = PROMPT + written(decoder).tokens
    speculation = Speculation(decoder, Scripted(lambda end: text[end:]), Always(), same_bits=True)
    result = written(decoder, speculation)
    assert result.runs == -(-(LIMIT - 1) // 3)


def test_a_sequence_that_went_back_continues_as_if_it_had_not_been_elsewhere(decoder):
    decoder.start(30)
    decoder.step(PROMPT)
    expected = decoder.step([20])
    decoder.rewind(len(PROMPT))
    decoder.verify([30, 31, 32][: decoder.verify_limit])
    decoder.rewind(len(PROMPT))
    assert np.array_equal(decoder.step([20]), expected)


@pytest.mark.parametrize("share_buffer", [True, False])
def test_a_cache_of_either_kind_goes_back(tiny_weights, tmp_path, share_buffer):
    path = tiny.make_model(tiny_weights, tmp_path, share_buffer=share_buffer)
    decoder = Decoder.load(path, library=False)
    decoder.start(20)
    decoder.step(PROMPT)
    expected = decoder.step([20])
    decoder.step([30, 31, 32])
    decoder.rewind(0)
    decoder.step(cast(Any, np.array(PROMPT)))
    assert decoder.length == len(PROMPT)
    assert np.abs(decoder.step([20]) - expected).max() <= 1e-4 * np.abs(expected).max()  # see test_decoder.py


def test_what_cannot_be_checked_or_taken_back_is_refused(llama, stateful):
    llama.start(12)
    llama.step(PROMPT)
    assert llama.verify_limit == 2  # what the sequence was started for
    for tokens in ([], [1, 2, 3]):
        with pytest.raises(InputError, match=f"{len(tokens)} tokens to verify, expected 1 to 2"):
            llama.verify(tokens)
    with pytest.raises(InputError, match=f"token id {VOCABULARY}: expected"):
        llama.verify([VOCABULARY])
    assert llama.length == len(PROMPT)
    with pytest.raises(InputError, match="nothing can be verified: layers of the model carry states"):
        stateful.verify([1])
    for length in (-1, 11):
        with pytest.raises(InputError, match=f"cannot go back to {length} of 10 tokens"):
            llama.rewind(length)
    stateful.start(12)
    stateful.step(PROMPT)
    assert not stateful.verifies
    with pytest.raises(InputError, match="states, which cannot go back"):
        stateful.rewind(5)


# The loop


@pytest.mark.parametrize("sampling", SAMPLERS.values(), ids=SAMPLERS)
def test_right_guesses_take_a_run_for_all_of_them_and_change_no_token(decoder, sampling):
    plain = written(decoder, **sampling)
    text = PROMPT + plain.tokens

    result = written(decoder, Speculation(decoder, Scripted(lambda end: text[end:]), Always()), **sampling)

    assert result.tokens == plain.tokens
    assert result.finish_reason == plain.finish_reason
    assert result.accepted == result.guessed
    assert plain.runs == len(plain.tokens) - (plain.finish_reason == "length")
    assert result.runs == -(-plain.runs // verified(decoder))


@pytest.mark.parametrize("sampling", SAMPLERS.values(), ids=SAMPLERS)
@given(st.data())
@settings(max_examples=15, deadline=None)
def test_any_guesses_change_no_token(llama, sampling, data):
    plain = written(llama, **sampling)
    text = PROMPT + plain.tokens

    def script(end):
        right = data.draw(st.integers(0, 4))
        return text[end : end + right] + data.draw(st.lists(st.integers(3, VOCABULARY - 1), max_size=4))

    result = written(llama, Speculation(llama, Scripted(script), Always()), **sampling)

    assert result.tokens == plain.tokens
    assert result.finish_reason == plain.finish_reason
    assert result.accepted <= result.guessed


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_no_more_tokens_are_written_than_asked_for(llama, limit):
    plain = written(llama)
    text = PROMPT + plain.tokens
    result = written(llama, Speculation(llama, Scripted(lambda end: text[end:]), Always()), limit)
    assert (result.tokens, result.finish_reason) == (plain.tokens[:limit], "length")


def test_a_token_that_ends_the_text_ends_it_among_guesses_too(llama):
    plain = written(llama)
    text = PROMPT + plain.tokens
    end = plain.tokens[4]
    ending = Decoder(llama.session, replace(llama.config, eos_token_ids=(end,)))
    result = written(ending, Speculation(ending, Scripted(lambda place: text[place:]), Always()))
    assert (result.tokens, result.finish_reason) == (plain.tokens[: plain.tokens.index(end)], "stop")


@pytest.mark.parametrize("ends", ["by a token", "by the reader"])
def test_a_text_that_ended_among_guesses_leaves_its_own_tokens_in_the_cache(llama, ends):
    plain = written(llama)
    text = PROMPT + plain.tokens
    end = (plain.tokens[4],) if ends == "by a token" else ()
    decoder = Decoder(llama.session, replace(llama.config, eos_token_ids=end))
    speculation = Speculation(decoder, Scripted(lambda place: text[place:]), Always())
    tokens = cast(Any, generate(decoder, PROMPT, LIMIT, Sampler(), result := Generation([]), speculation))
    for _ in range(3):
        next(tokens)
    tokens.close() if not end else list(tokens)
    known = PROMPT + result.tokens[: None if end else -1]  # the last token that was read has not been fed
    assert decoder.length == len(known)
    logits = decoder.step([7])
    llama.start(len(known) + 1)
    expected = llama.step([*known, 7])
    assert np.abs(logits - expected).max() <= 1e-3 * np.abs(expected).max()  # as in test_decoder.py, level 0


@pytest.mark.parametrize("sampling", SAMPLERS.values(), ids=SAMPLERS)
def test_guesses_from_the_text_change_no_token(decoder, sampling):
    plain = written(decoder, **sampling)
    result = written(decoder, Speculation(decoder, NgramGuesser(sizes=(2, 1)), Always()), **sampling)
    assert result.tokens == plain.tokens
    assert result.guessed


@pytest.mark.parametrize("sampling", SAMPLERS.values(), ids=SAMPLERS)
def test_a_draft_that_is_the_model_itself_is_always_right(llama, sampling):
    plain = written(llama, **sampling)
    draft = Decoder(llama.session, llama.config)
    pace = Always()
    result = written(llama, Speculation(llama, DraftGuesser(draft, llama, pace), pace), **sampling)
    assert result.tokens == plain.tokens
    assert 0 < result.accepted == result.guessed
    assert pace.guess_seconds > 0


@pytest.mark.parametrize("sampling", SAMPLERS.values(), ids=SAMPLERS)
def test_any_draft_changes_no_token(llama, other, sampling):
    plain = written(llama, **sampling)
    pace = Always()
    result = written(llama, Speculation(llama, DraftGuesser(other, llama, pace), pace), **sampling)
    assert result.tokens == plain.tokens
    assert result.accepted < result.guessed


def test_a_draft_whose_context_is_full_guesses_no_more(llama):
    short = replace(llama.config, context_length=len(PROMPT) + 6)
    draft = Decoder(llama.session, short)
    pace = Always()
    result = written(llama, Speculation(llama, DraftGuesser(draft, llama, pace), pace))
    assert result.tokens == written(llama).tokens
    assert 0 < result.accepted <= 6


def test_models_that_do_not_go_together_are_refused(llama, stateful):
    with pytest.raises(InputError, match="states, so a wrong guess could not be taken back"):
        Speculation(stateful, NgramGuesser(), Pace())
    with pytest.raises(InputError, match="of the draft carry states"):
        DraftGuesser(stateful, Decoder(stateful.session, stateful.config), Pace())
    with pytest.raises(InputError, match=f"logits of {VOCABULARY} tokens, the model of 7; a draft needs the model's"):
        DraftGuesser(llama, cast(Any, SimpleNamespace(vocabulary=7)), Pace())
    with pytest.raises(InputError, match="the draft is the model itself"):
        DraftGuesser(llama, llama, Pace())


# The command


@pytest.fixture
def run(capsys):
    def call(*arguments):
        code = main([str(argument) for argument in arguments])
        return code, capsys.readouterr()

    return call


def test_a_model_without_logits_to_check_by_is_named_only_where_guesses_were_asked_for(run, tiny_model):
    arguments = ["generate", tiny_model, "--prompt", "ab ab ab", "--max-new-tokens", 4, "--no-library"]
    assert run(*arguments)[0] == 0
    code, captured = run(*arguments, "--speculate", "ngram")
    assert code == 2
    assert "export it anew" in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", "a", "--draft", "d.onnx", "--speculate", "ngram"], "--speculate: expected no value with --draft"),
        (["--prompts", "f", "--draft", "d.onnx"], "--draft: expected no value with --prompts"),
        (["--prompt", "a", "--slots", "2"], "--slots: expected no value without --prompts"),
    ],
)
def test_options_that_do_not_go_together_exit_2_with_one_line(run, tiny_model, arguments, message):
    code, captured = run("generate", tiny_model, *arguments)
    assert code == 2
    assert message in captured.err


def test_guesses_are_only_made_by_default_where_a_token_has_the_same_bits():
    from runtime_ext import generate as command

    for same_bits, library, expected in [(8, True, True), (8, False, False), (0, True, False)]:
        model = cast(Any, SimpleNamespace(verifies=True, same_bits_limit=same_bits))
        options = command.GenerateOptions(prompt="a")
        assert (command.speculation_for(model, options, command.LoadOptions(library=library)) is not None) is expected


class Numbers:
    """A codec whose texts are token ids, as numbers; a conversation begins with PROMPT."""

    def encode_messages(self, messages):
        return [*PROMPT, *(int(word) for message in messages for word in message["content"].split())]

    def stream(self, ids):
        return (f"{token} " for token in ids)

    def decode(self, ids):
        return "".join(self.stream(ids))


def test_an_interrupt_among_guesses_leaves_what_was_read_to_the_next_turn(llama):
    speculation = Speculation(llama, NgramGuesser(7), Always())
    conversation = Conversation(llama, cast(Any, Numbers()), 100, speculation)
    turn = Turn([])
    list(conversation.answer(60, Sampler(), turn, lambda: llama.length > len(PROMPT) + len(turn.tokens)))
    assert turn.finish_reason == "stopped"
    conversation.messages.append({"role": "user", "content": "8 9"})
    again, said = Turn([]), len(turn.tokens)
    list(conversation.answer(4, Sampler(), again, lambda: False))
    assert again.cached_tokens == len(PROMPT) + said - 1  # the last token was only read as a guess, and taken back
    plain = Generation([])
    assert again.tokens == list(generate(llama, [*PROMPT, *turn.tokens, 8, 9], 4, Sampler(), plain))
