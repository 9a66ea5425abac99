"""Continuous batching: jobs that come and go get what they would get alone."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

import runtime_ext
from dualbinary import DualBinaryError, InputError
from exporter.options import ExportOptions
from exporter.pipeline import export
from runtime_ext import batcher as batcher_module
from runtime_ext.batch_decoder import batch_decoder
from runtime_ext.batcher import Batcher, CallbackError, Job
from runtime_ext.decoder import Decoder
from runtime_ext.generate import generate
from runtime_ext.generate_all import generate_all
from runtime_ext.generation import Generation
from runtime_ext.sampling import Sampler
from runtime_ext.speculation import longest_guess
from tests.support.pace import Always
from tests.support.tiny_models import make_model
from tests.support.tiny_sessions import make_model as make_growing

PROMPTS = [[7, 8, 9], [1], list(range(30)), [200, 100, 50, 25], list(range(100, 120)), [5, 5], [33] * 11]
NEW = 12


@pytest.fixture(scope="module")
def decoder(tiny_model) -> Decoder:
    return Decoder.load(tiny_model, threads=1, library=False)


class Record:
    """What one job said."""

    def __init__(self, stop_after=None):
        self.tokens, self.ended, self.stop_after = [], [], stop_after

    def take(self, token, logits):
        self.tokens.append(token)
        return len(self.tokens) == self.stop_after

    def job(self, prompt, sampler=None, limit=NEW):
        return Job(prompt, limit, sampler or Sampler(), self.take, self.ended.append)


def alone(decoder, prompt, sampler=None, limit=NEW):
    result = Generation([])
    list(generate(decoder, prompt, limit, sampler or Sampler(), result))
    return result


def drain(batcher, rounds=1000):
    for _ in range(rounds):
        if not batcher.busy:
            return
        batcher.advance()
    raise AssertionError("the batcher does not come to an end")


@pytest.mark.parametrize("slots", [1, 3, 8])
@pytest.mark.parametrize("temperature", [0, 1.5])
def test_all_prompts_get_the_answers_that_they_get_alone(decoder, monkeypatch, slots, temperature):
    monkeypatch.setattr(batcher_module, "PIECE", 4)
    samplers = [[Sampler(temperature=temperature, seed=place) for place in range(len(PROMPTS))] for _ in range(2)]
    found = list(generate_all(decoder, PROMPTS, NEW, samplers[0], slots))
    for result, prompt, sampler in zip(found, PROMPTS, samplers[1], strict=True):
        expected = alone(decoder, prompt, sampler)
        assert (result.tokens, result.finish_reason) == (expected.tokens, expected.finish_reason)


@pytest.fixture(scope="module")
def checking(tmp_path_factory) -> Decoder:
    """A model that checks guesses, by the library."""
    work = tmp_path_factory.mktemp("checking")
    source, path = make_model("llama", work / "model"), work / "out" / "model.onnx"
    export(source, path, ExportOptions(), library=runtime_ext.library_path())
    return Decoder.load(path, threads=1)


REPEATING = [5, 6, 7, 8, 5, 6, 7, 9, 5, 6]


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.5, "seed": 3}, {"frequency_penalty": 0.2}], ids=str)
def test_a_job_that_runs_alone_gets_the_same_text_in_fewer_runs(checking, monkeypatch, sampling):
    monkeypatch.setattr("runtime_ext.speculation.lone.Pace", Always)
    (found,) = generate_all(checking, [REPEATING], 60, [Sampler(**sampling)], 2, longest_guess=7)
    expected = alone(checking, REPEATING, Sampler(**sampling), limit=60)
    assert (found.tokens, found.finish_reason) == (expected.tokens, expected.finish_reason)
    assert found.guessed >= found.accepted
    assert found.runs == expected.runs - found.accepted
    if not sampling:  # a greedy answer of a tiny model repeats itself
        assert found.accepted > 10


def test_guesses_pause_while_others_run_and_what_ends_a_job_ends_its_run(checking, monkeypatch):
    monkeypatch.setattr("runtime_ext.speculation.lone.Pace", Always)
    batch = batch_decoder(checking, 2, 80)
    checked, verify = [], batch.verify
    monkeypatch.setattr(batch, "verify", lambda *given: checked.append(len(given[1])) or verify(*given))
    batcher, first, second = Batcher(batch, 7), Record(), Record(stop_after=5)
    jobs = [first.job(REPEATING, limit=60), second.job(PROMPTS[1])]
    batcher.add(jobs[0])
    while not checked:
        batcher.advance()
    batcher.add(jobs[1])
    before = len(checked)
    while not second.ended:
        batcher.advance()
    assert len(checked) == before
    drain(batcher)
    assert len(checked) > before
    assert first.tokens == alone(checking, REPEATING, limit=60).tokens
    assert second.tokens == alone(checking, PROMPTS[1]).tokens[:5]
    assert (jobs[1].guessed, batch.free) == (0, 2)

    for count in range(20, 30):  # some of these are in the middle of a run
        stopped = Record(stop_after=count)
        batcher.add(stopped.job(REPEATING, limit=60))
        drain(batcher)
        assert (stopped.tokens, stopped.ended, batch.free) == (first.tokens[:count], ["stop"], 2)


def test_a_run_of_guesses_that_fails_ends_its_job_and_the_next_one_runs(checking, monkeypatch):
    monkeypatch.setattr("runtime_ext.speculation.lone.Pace", Always)
    batch = batch_decoder(checking, 1, 80)
    batcher, failed, record = Batcher(batch, 7), Record(), Record()

    def verify(sequence, tokens):
        raise DualBinaryError("out of memory")

    with monkeypatch.context() as context:
        context.setattr(batch, "verify", verify)
        batcher.add(failed.job(REPEATING, limit=60))
        drain(batcher)
    assert [str(error) for error in failed.ended] == ["out of memory"]
    batcher.add(record.job(REPEATING, limit=60))
    drain(batcher)
    assert record.tokens == alone(checking, REPEATING, limit=60).tokens


def test_what_is_guessed_is_what_the_option_says(checking):
    assert longest_guess(checking, "auto", library=True) == checking.same_bits_limit - 1 > 0
    assert longest_guess(checking, "auto", library=False) == longest_guess(checking, "none", library=True) == 0
    assert longest_guess(checking, "ngram", library=False) == 7
    blind = cast(Any, SimpleNamespace(verifies=False, why_not="no such output", same_bits_limit=0))
    assert longest_guess(blind, "auto", library=True) == 0
    with pytest.raises(InputError, match="no guess can be checked: no such output"):
        longest_guess(blind, "ngram", library=True)


def test_jobs_that_come_later_share_the_steps_of_those_that_run(decoder):
    batcher = Batcher(batch_decoder(decoder, 2, 40))
    early, late, last = Record(), Record(stop_after=2), Record()
    batcher.add(early.job(PROMPTS[0]))
    for _ in range(3):
        batcher.advance()
    assert len(early.tokens) == 4  # one from the prompt
    batcher.add(late.job(PROMPTS[1]))
    batcher.add(last.job(PROMPTS[3]))
    assert (batcher.running, batcher.waiting) == (1, 2)
    batcher.advance()
    assert (len(early.tokens), late.tokens, late.ended) == (5, alone(decoder, PROMPTS[1]).tokens[:2], ["stop"])
    drain(batcher)
    assert early.tokens == alone(decoder, PROMPTS[0]).tokens
    assert last.tokens == alone(decoder, PROMPTS[3]).tokens
    assert early.ended == last.ended == ["length"]
    assert batcher.running == batcher.waiting == 0


def test_an_end_of_text_token_ends_a_job_and_is_left_out(decoder, monkeypatch):
    expected = alone(decoder, PROMPTS[0])
    batch = batch_decoder(decoder, 1, 40)
    end = expected.tokens[4]
    batch.config = type(batch.config)(batch.config.context_length, (end,), batch.config.share_buffer)
    batcher, record = Batcher(batch), Record()
    batcher.add(record.job(PROMPTS[0]))
    drain(batcher)
    assert (record.tokens, record.ended) == (expected.tokens[: expected.tokens.index(end)], ["stop"])


def test_canceled_jobs_free_their_slots_wherever_they_are(decoder, monkeypatch):
    monkeypatch.setattr(batcher_module, "PIECE", 4)
    batch = batch_decoder(decoder, 2, 40)
    batcher = Batcher(batch)
    records = [Record() for _ in range(4)]
    jobs = [record.job(prompt) for record, prompt in zip(records, [[1], PROMPTS[2], [2], [3]], strict=True)]
    for job in jobs:
        batcher.add(job)
    batcher.advance()
    batcher.advance()
    assert (batcher.running, batcher.waiting, batch.free) == (2, 2, 0)  # the second still reads its prompt
    for job in jobs[:3]:
        batcher.cancel(job)
        batcher.cancel(job)
    assert [record.ended for record in records] == [["canceled"]] * 3 + [[]]
    assert batch.free == 2
    drain(batcher)
    assert records[3].tokens == alone(decoder, [3]).tokens


@pytest.mark.parametrize("longest", [0, 7])
def test_a_job_may_cancel_itself_at_any_token(checking, monkeypatch, longest):
    monkeypatch.setattr("runtime_ext.speculation.lone.Pace", Always)
    batch = batch_decoder(checking, 1, 40)
    batcher = Batcher(batch, longest)
    for count in (1, 5, NEW):  # at the first and the last one, too
        record = Record(stop_after=count)

        job = record.job(REPEATING)

        def take(token, logits, record=record, job=job):
            if record.take(token, logits):
                batcher.cancel(job)
            return False

        job.on_token = take
        batcher.add(job)
        drain(batcher)
        assert (len(record.tokens), record.ended, batch.free) == (count, ["canceled"], 1)


def test_an_error_ends_the_jobs_that_it_concerns_and_no_other(decoder):
    def broken(logits):
        raise DualBinaryError("no token can be chosen")

    def buggy(logits):
        return {}[logits.argmax()]

    batch = batch_decoder(decoder, 3, 40)
    batcher = Batcher(batch)
    good, bad, worse, unknown = Record(), Record(), Record(), Record()
    batcher.add(good.job(PROMPTS[0]))
    batcher.add(bad.job(PROMPTS[1], broken))
    batcher.add(worse.job(PROMPTS[1], buggy))
    batcher.add(unknown.job([100_000]))
    drain(batcher)
    assert good.tokens == alone(decoder, PROMPTS[0]).tokens
    assert [str(record.ended[0]) for record in (bad, unknown)] == ["no token can be chosen", str(unknown.ended[0])]
    assert "token id 100000" in str(unknown.ended[0])
    assert isinstance(worse.ended[0], CallbackError)
    assert "what chooses the tokens failed: KeyError" in str(worse.ended[0])
    assert batch.free == 3


@pytest.mark.parametrize("chosen", [100_000, -1, None])
def test_a_sampler_that_chooses_no_token_of_the_table_ends_its_job_and_no_other(decoder, chosen):
    batch = batch_decoder(decoder, 2, 40)
    batcher, good, bad = Batcher(batch), Record(), Record()
    batcher.add(good.job(PROMPTS[0]))
    batcher.add(bad.job(PROMPTS[1], lambda logits: chosen))
    drain(batcher)
    assert good.tokens == alone(decoder, PROMPTS[0]).tokens
    assert isinstance(bad.ended[0], CallbackError)
    assert str(bad.ended[0]).endswith(f"ValueError: expected a token from 0 to {decoder.vocabulary - 1}, got {chosen}")
    assert (bad.tokens, batch.free) == ([], 2)


@pytest.mark.parametrize("error", [RuntimeError("Failed to allocate memory\nin a file"), MemoryError()])
def test_a_job_whose_slot_has_no_memory_ends_alone(tiny_weights, tmp_path, monkeypatch, error):
    """Where a cache grows, each slot is a decoder of its own, and begins with allocations."""
    decoder = Decoder.load(make_growing(tiny_weights, tmp_path, share_buffer=False), threads=1, library=False)
    batch = batch_decoder(decoder, 2, 40)
    batcher, failed, record = Batcher(batch), Record(), Record()
    start, errors = Decoder.start, [error]

    def start_later(self, capacity):
        if capacity and errors:
            raise errors.pop()
        start(self, capacity)

    monkeypatch.setattr(Decoder, "start", start_later)
    batcher.add(failed.job(PROMPTS[0]))
    batcher.add(record.job(PROMPTS[0]))
    drain(batcher)
    said = str(error).split("\n")[0] or "MemoryError"
    assert [str(each) for each in failed.ended] == [
        f"a slot of 40 tokens cannot be had: {said}; a smaller context or fewer slots take less memory"
    ]
    assert (record.tokens, record.ended) == (alone(decoder, PROMPTS[0]).tokens, ["length"])
    assert batch.free == 2


def test_a_job_whose_guesses_cannot_be_taken_back_ends_alone(checking, monkeypatch):
    monkeypatch.setattr("runtime_ext.speculation.lone.Pace", Always)
    batch = batch_decoder(checking, 2, 80)
    batcher, failed, other = Batcher(batch, 7), Record(), Record()
    rewind, errors = batch.rewind, [MemoryError()]

    def rewind_later(sequence, length):
        if errors:
            raise errors.pop()
        rewind(sequence, length)

    monkeypatch.setattr(batch, "rewind", rewind_later)
    for record in (failed, other):
        batcher.add(record.job(REPEATING, limit=20))
        drain(batcher)
    assert [str(error) for error in failed.ended] == ["tokens cannot be taken back: MemoryError"]
    assert (other.ended, batch.free) == (["length"], 2)


@pytest.mark.parametrize("longest", [0, 7])
def test_a_callback_that_fails_ends_its_job_and_no_other(checking, monkeypatch, longest):
    monkeypatch.setattr("runtime_ext.speculation.lone.Pace", Always)
    batch = batch_decoder(checking, 2, 80)
    batcher, failed, other = Batcher(batch, longest), Record(), Record()

    def take(token, logits):
        if failed.take(token, logits):
            raise ValueError("no such text")
        return False

    for count in (1, 5, 12):
        failed.tokens, failed.ended, failed.stop_after = [], [], count
        job = failed.job(REPEATING, limit=60)
        job.on_token = take
        batcher.add(job)
        drain(batcher)
        assert isinstance(failed.ended[0], CallbackError)
        assert (str(failed.ended[0]), batch.free) == ("what takes the tokens failed: ValueError: no such text", 2)
        assert (len(failed.tokens), len(failed.ended)) == (count, 1)
    job = failed.job(REPEATING, limit=60)
    failed.tokens, job.on_token = [], take
    batcher.add(job)
    batcher.add(other.job(PROMPTS[0]))
    drain(batcher)
    assert other.tokens == alone(checking, PROMPTS[0]).tokens
    assert other.ended == ["length"]


def test_a_step_that_fails_ends_all_that_took_part_and_the_next_job_runs(decoder, monkeypatch):
    batch = batch_decoder(decoder, 2, 40)
    batcher, records = Batcher(batch), [Record(), Record()]
    for record in records:
        batcher.add(record.job([1, 2]))
    batcher.advance()
    batcher.advance()

    def fail(sequences, tokens):
        raise DualBinaryError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(batch, "step", fail)
        batcher.advance()
    assert [str(record.ended[0]) for record in records] == ["out of memory"] * 2
    assert (batch.free, batcher.busy) == (2, False)
    again = Record()
    batcher.add(again.job(PROMPTS[0]))
    drain(batcher)
    assert again.tokens == alone(decoder, PROMPTS[0]).tokens


@pytest.mark.parametrize(("prompt", "message"), [([], "the prompt is empty"), ([1] * 40, "context only 40")])
def test_prompts_without_an_answer_are_refused_at_once(decoder, prompt, message):
    batcher = Batcher(batch_decoder(decoder, 1, 40))
    with pytest.raises(InputError, match=message):
        batcher.add(Record().job(prompt))
    assert not batcher.busy


def test_an_answer_ends_where_the_slot_is_full(decoder):
    batcher, record = Batcher(batch_decoder(decoder, 1, 10)), Record()
    batcher.add(record.job([1, 2, 3], limit=100))
    drain(batcher)
    assert (len(record.tokens), record.ended) == (7, ["length"])


def test_logits_come_with_the_token_that_they_chose(decoder):
    batcher, seen = Batcher(batch_decoder(decoder, 2, 40)), []
    batcher.add(Job([1, 2], 5, Sampler(), lambda token, logits: bool(seen.append(token == np.argmax(logits))), print))
    drain(batcher)
    assert seen == [True] * 5
