"""Several tokens a run: the text is that of a token a run, to the last token, whatever is guessed."""

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
from runtime_ext.decoder import Decoder
from runtime_ext.generate import generate
from runtime_ext.generation import Generation
from runtime_ext.sampling import Sampler
from runtime_ext.speculation import DraftGuesser, Guess, NgramGuesser, Pace, Speculation
from tests.support import tiny_sessions as tiny
from tests.support.tiny_models import VOCABULARY, make_model

PROMPT = [5, 6, 7, 8, 5, 6, 7, 9, 5, 6]
LIMIT = 40
SAMPLERS = {"greedy": {}, "drawn": {"temperature": 1.5, "top_p": 0.95, "seed": 3}}
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


class Always(Pace):
    """As many as there can be."""

    def count(self, kind: int, most: int) -> int:
        return most


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
    ids = np.random.default_rng(0).integers(3, VOCABULARY, 60).tolist()
    most = verified(decoder)
    for length in (1, 14, 15, 31):  # keys are summed up in fours, and in vectors of 16
        decoder.start(60)
        decoder.step(ids[:length])
        alone = [decoder.step([token]) for token in ids[length : length + most]]
        for count in range(1, most + 1):
            decoder.rewind(length)
            rows = decoder.verify(ids[length : length + count])
            assert rows.shape == (count, VOCABULARY)
            for row, expected in zip(rows, alone, strict=False):
                assert np.array_equal(row, expected), (length, count)


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
    decoder.rewind(len(PROMPT))
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
    ending = Decoder(llama.session, type(llama.config)(llama.config.context_length, (end,), llama.config.share_buffer))
    result = written(ending, Speculation(ending, Scripted(lambda place: text[place:]), Always()))
    assert (result.tokens, result.finish_reason) == (plain.tokens[: plain.tokens.index(end)], "stop")


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
    result = written(llama, Speculation(llama, DraftGuesser(draft, llama.vocabulary, pace), pace), **sampling)
    assert result.tokens == plain.tokens
    assert 0 < result.accepted == result.guessed
    assert pace.guess_seconds > 0


@pytest.mark.parametrize("sampling", SAMPLERS.values(), ids=SAMPLERS)
def test_any_draft_changes_no_token(llama, other, sampling):
    plain = written(llama, **sampling)
    pace = Always()
    result = written(llama, Speculation(llama, DraftGuesser(other, llama.vocabulary, pace), pace), **sampling)
    assert result.tokens == plain.tokens
    assert result.accepted < result.guessed


def test_a_draft_whose_context_is_full_guesses_no_more(llama):
    short = type(llama.config)(len(PROMPT) + 6, llama.config.eos_token_ids, llama.config.share_buffer)
    draft = Decoder(llama.session, short)
    pace = Always()
    result = written(llama, Speculation(llama, DraftGuesser(draft, llama.vocabulary, pace), pace))
    assert result.tokens == written(llama).tokens
    assert 0 < result.accepted <= 6


def test_models_that_do_not_go_together_are_refused(llama, stateful):
    with pytest.raises(InputError, match="states, so a wrong guess could not be taken back"):
        Speculation(stateful, NgramGuesser(), Pace())
    with pytest.raises(InputError, match="of the draft carry states"):
        DraftGuesser(stateful, stateful.vocabulary, Pace())
    with pytest.raises(InputError, match=f"logits of {VOCABULARY} tokens, the model of 7; a draft needs the model's"):
        DraftGuesser(llama, 7, Pace())


# Guesses from the text


def followed(tokens, count, sizes=(4, 3, 2)):
    """The definition: search backwards for the last n tokens, and copy what followed."""
    for size in sizes:
        for end in range(len(tokens) - 1, size - 1, -1):
            if len(tokens) >= size and tokens[end - size : end] == tokens[-size:]:
                text = list(tokens)
                for place in range(end, end + count):
                    text.append(text[place])
                return size, text[len(tokens) :]
    return None, []


@given(st.lists(st.lists(st.integers(0, 2), max_size=6), max_size=8), st.integers(1, 7))
def test_a_guess_is_what_followed_the_longest_match_the_last_time(pieces, count):
    guesser, tokens = NgramGuesser(), []
    guesser.start((), 0)
    for piece in pieces:
        guesser.extend(piece)
        tokens += piece
        kind, expected = followed(tokens, count)
        assert guesser.look() == kind
        assert guesser.guess(count, Sampler()).tokens == expected


def test_a_new_sequence_does_not_know_the_old_one():
    guesser = NgramGuesser()
    guesser.start([1, 2, 3, 1, 2], 0)
    assert guesser.guess(1, Sampler()).tokens == [3]
    guesser.start([1, 2], 0)
    assert guesser.look() is None


# How many


def run_for(pace, tokens, cost, right):
    """Feed a pace with runs of `cost(rows)` seconds, in which a guess is right with what `right` gives; rows taken."""
    rows = []
    for _ in range(tokens):
        count = pace.count(4, 7)
        pace.ran(1 + count, cost(1 + count))
        if count:
            pace.judged(4, count, min(count, right()))
        rows.append(1 + count)
    return rows


def test_as_many_are_guessed_as_pay():
    assert run_for(Pace(), 60, lambda rows: 1 + 0.05 * rows, lambda: 7)[-1] == 8  # cheap, and always right
    assert sum(row > 1 for row in run_for(Pace(), 200, lambda rows: float(rows), lambda: 7)) < 10  # a row costs a run
    assert 1 < run_for(Pace(), 60, lambda rows: 1 + 0.4 * rows, lambda: 2)[-1] < 8


def test_what_is_never_right_is_tried_seldom_and_again():
    rows = run_for(Pace(), 400, lambda rows: 1 + 0.2 * rows, lambda: 0)
    assert 0 < sum(row > 1 for row in rows[200:]) < 30
    pace = Pace()
    run_for(pace, 200, lambda rows: 1 + 0.2 * rows, lambda: 0)
    assert run_for(pace, 200, lambda rows: 1 + 0.2 * rows, lambda: 7)[-1] > 4


def test_one_slow_run_does_not_end_it():
    pace = Pace()
    run_for(pace, 60, lambda rows: 1 + 0.1 * rows, lambda: 7)
    pace.ran(8, 1000.0)
    assert run_for(pace, 1, lambda rows: 1 + 0.1 * rows, lambda: 7) == [8]


def test_a_slow_draft_guesses_less():
    fast, slow = Pace(), Pace(guess_seconds=0.5)
    for pace in (fast, slow):
        pace.ran(1, 1.0)
    assert slow.count(0, 7) < fast.count(0, 7)


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
    assert "export it again" in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", "a", "--draft", "d.onnx", "--speculate", "ngram"], "--speculate: expected no value with --draft"),
        (["--prompts", "f", "--speculate", "ngram"], "--speculate: expected no value with --prompts"),
        (["--prompts", "f", "--draft", "d.onnx"], "--draft: expected no value with --prompts"),
    ],
)
def test_options_that_do_not_go_together_exit_2_with_one_line(run, tiny_model, arguments, message):
    code, captured = run("generate", tiny_model, *arguments)
    assert code == 2
    assert message in captured.err


def test_guesses_are_only_made_by_default_where_a_token_has_the_same_bits(monkeypatch):
    from runtime_ext import generate as command

    for verifies, library, expected in [(True, True, True), (True, False, False), (False, True, False)]:
        model = cast(Any, SimpleNamespace(verifies=verifies, provider=None))
        options = command.GenerateOptions(prompt="a")
        assert (command.speculation_for(model, options, command.LoadOptions(library=library)) is not None) is expected
