"""The sampler: what it may draw, and how often."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from transformers import RepetitionPenaltyLogitsProcessor

from dualbinary import DualBinaryError, InputError
from runtime_ext import sampling
from runtime_ext.sampling import Sampler

PROBABILITIES = np.array([0.1, 0.4, 0.3, 0.2])
LOGITS = np.log(PROBABILITIES).astype(np.float32) + 5
LOGIT_ARRAYS = arrays(np.float32, st.integers(1, 40), elements=st.floats(-50, 50, width=32))


@given(LOGIT_ARRAYS)
def test_greedy_takes_the_largest_logit(logits):
    assert logits[Sampler()(logits)] == logits.max()


@given(LOGIT_ARRAYS, st.integers(1, 50), st.floats(0.1, 3), st.integers(0, 100))
def test_top_k_draws_among_the_k_largest_whatever_the_logits(logits, k, temperature, seed):
    token = Sampler(temperature=temperature, top_k=k, seed=seed)(logits)
    assert (logits > logits[token]).sum() < k


@pytest.mark.parametrize(("top_k", "allowed"), [(1, {1}), (2, {1, 2}), (3, {1, 2, 3}), (9, {0, 1, 2, 3})])
def test_top_k_draws_all_of_the_k_largest_and_no_other(top_k, allowed):
    sampler = Sampler(temperature=1, top_k=top_k, seed=0)
    assert {sampler(LOGITS) for _ in range(300)} == allowed


@pytest.mark.parametrize(("top_p", "allowed"), [(0.3, {1}), (0.5, {1, 2}), (0.75, {1, 2, 3}), (1.0, {0, 1, 2, 3})])
def test_top_p_draws_from_the_smallest_set_that_reaches_p(top_p, allowed):
    sampler = Sampler(temperature=1, top_p=top_p, seed=0)
    assert {sampler(LOGITS) for _ in range(300)} == allowed


@pytest.mark.parametrize("temperature", [0.5, 1, 2])
def test_draws_follow_the_tempered_probabilities(temperature):
    draws = 20_000
    sampler = Sampler(temperature=temperature, seed=1)
    counts = np.bincount([sampler(LOGITS) for _ in range(draws)], minlength=4)
    expected = PROBABILITIES ** (1 / temperature)
    expected /= expected.sum()
    # Five standard deviations of a binomial count; the seed is fixed, so this never flickers.
    assert np.all(np.abs(counts - draws * expected) < 5 * np.sqrt(draws * expected * (1 - expected)))


@pytest.mark.parametrize(("min_p", "allowed"), [(0, {0, 1, 2, 3}), (0.3, {1, 2, 3}), (0.6, {1, 2}), (1, {1})])
def test_min_p_draws_from_those_that_are_so_likely_beside_the_likeliest(min_p, allowed):
    sampler = Sampler(temperature=1, min_p=min_p, seed=0)
    assert {sampler(LOGITS) for _ in range(300)} == allowed
    assert {Sampler(temperature=1, top_p=0.5, min_p=min_p, seed=0)(LOGITS)} <= {1, 2}


@given(
    LOGIT_ARRAYS,
    st.integers(0, 20),
    st.sampled_from([1, 0.999, 0.9, 0.5]),
    st.sampled_from([0, 1e-9, 0.01, 0.5]),
    st.integers(0, 100),
)
def test_the_draw_is_the_same_whether_few_or_all_are_sorted(logits, k, p, min_p, seed):
    draws = []
    for few in (3, 1000):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sampling, "FEW", few)
            sampler = Sampler(temperature=1, top_k=k, top_p=p, min_p=min_p, seed=seed)
            draws.append([sampler(logits) for _ in range(5)])
    assert draws[0] == draws[1]


def test_equal_seeds_draw_equal_tokens_and_others_differ():
    first, again, other = (Sampler(temperature=1, seed=seed) for seed in (3, 3, 4))
    draws = [[sampler(LOGITS) for _ in range(50)] for sampler in (first, again, other)]
    assert draws[0] == draws[1] != draws[2]


@given(LOGIT_ARRAYS, st.sampled_from([0.8, 1.3]), st.data())
def test_repetition_is_divided_out_as_transformers_does_it(logits, factor, data):
    prompt = data.draw(st.lists(st.integers(0, len(logits) - 1), max_size=5))
    sampler, text = Sampler(repetition_penalty=factor), list(prompt)
    sampler.start(prompt)
    theirs = RepetitionPenaltyLogitsProcessor(factor)
    for _ in range(4):
        there = torch.tensor([text], dtype=torch.int64)
        expected = int(theirs(there, torch.tensor(logits)[None])[0].argmax()) if text else int(logits.argmax())
        text.append(sampler(logits))
        assert text[-1] == expected


def test_presence_counts_a_token_of_the_answer_once_and_frequency_each_time():
    logits = np.array([3, 2.2, 0], np.float32)
    for penalty, expected in (
        ({"presence_penalty": 1}, [0, 1, 0, 0, 0]),  # 3, 2.2 | 2, 2.2 | 2, 1.2 from then on
        ({"frequency_penalty": 1}, [0, 1, 0, 1, 0]),  # 3, 2.2 | 2, 2.2 | 2, 1.2 | 1, 1.2 | 1, 0.2
        ({"frequency_penalty": -1, "presence_penalty": 2}, [0, 1, 0, 0, 0]),  # 3, 2.2 | 2, 2.2 | 2, 1.2 | 3, 1.2
    ):
        sampler = Sampler(**penalty)
        sampler.start([0, 0, 1])  # of the prompt nothing is taken off
        assert [sampler(logits) for _ in range(5)] == expected
    assert logits.tolist() == [3, np.float32(2.2), 0]


def test_a_model_with_fewer_tokens_is_penalized_for_those_that_it_has():
    sampler = Sampler(repetition_penalty=5, frequency_penalty=2)
    sampler.start([7])
    assert sampler(np.array([0, 0, 0, 0, 0, 1], np.float32)) == 5
    assert [sampler(LOGITS) for _ in range(2)] == [1, 2]


def test_another_text_begins_without_penalties():
    sampler = Sampler(presence_penalty=2, repetition_penalty=5)
    sampler.start([1])
    assert [sampler(LOGITS) for _ in range(2)] == [2, 3]
    sampler.start()
    assert sampler(LOGITS) == 1


@pytest.mark.parametrize("temperature", [0, 0.8])
@pytest.mark.parametrize(
    "logits", [[np.nan] * 3, [1, np.nan, 2], [1, np.inf, 2], [np.inf, -np.inf, 0], [-np.inf] * 3], ids=str
)
def test_logits_that_are_not_finite_are_refused(temperature, logits):
    with pytest.raises(DualBinaryError, match=r"the logits are not finite .* --dtype fp32"):
        Sampler(temperature=temperature)(np.array(logits, np.float32))


@pytest.mark.parametrize("temperature", [0, 0.8])
def test_words_that_a_model_rules_out_are_never_drawn(temperature):
    logits = np.array([-np.inf, 1, -np.inf], np.float32)
    assert {Sampler(temperature=temperature, seed=0)(logits) for _ in range(50)} == {1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1}, "temperature: expected at least 0, got"),
        ({"temperature": float("inf")}, "temperature: expected at least 0, got"),
        ({"temperature": float("nan")}, "temperature: expected at least 0, got"),
        ({"temperature": 1, "top_k": -1}, "top_k: expected at least 0, got -1"),
        ({"temperature": 1, "top_p": 0}, "top_p: expected above 0 and at most 1, got"),
        ({"temperature": 1, "top_p": 1.5}, "top_p: expected above 0 and at most 1, got"),
        ({"temperature": 1, "min_p": 1.5}, "min_p: expected 0 to 1, got"),
        ({"repetition_penalty": 0}, "repetition_penalty: expected 0.1 to 10, got"),
        ({"repetition_penalty": 1e39}, "repetition_penalty: expected 0.1 to 10, got"),
        ({"presence_penalty": 2.5}, "presence_penalty: expected -2 to 2, got"),
        ({"frequency_penalty": float("nan")}, "frequency_penalty: expected -2 to 2, got"),
        ({"top_k": 5}, "temperature: expected above 0 with top_k, top_p or min_p"),
        ({"top_p": 0.9}, "temperature: expected above 0 with top_k, top_p or min_p"),
        ({"min_p": 0.1}, "temperature: expected above 0 with top_k, top_p or min_p"),
    ],
)
def test_options_without_a_meaning_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        Sampler(**options)
