"""A row of a padded batch gets the logits that it gets alone, on whichever side its padding is."""

# onnxruntime_genai fills its module at run time, where a type checker cannot see it.
# pyright: reportAttributeAccessIssue=false

import numpy as np
import onnxruntime_genai as genai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.families import by_kind
from tests.support.sessions import open_session, outputs, step
from tests.support.tiny_models import CONFIGS, VOCABULARY

_WIDTH = 12
# Columns of a row that are tokens.
_LAYOUTS = {
    "left": slice(5, None),
    "right": slice(None, 7),
    "both sides": slice(2, 9),
    "one token": slice(-1, None),
    "holes": [0, 1, 4, 5, 6, 10],
    "whole": slice(None),
}
# Level 0 may lose 1e-4 in a product, whose rounding depends on the rows of a call: 15 products add up like their square
# root. Tokens that see padding, or not each other, are off by a tenth of the largest logit and more.
_TOLERANCE = 4e-4


def _batch(masks: np.ndarray, seed: int = 0) -> np.ndarray:
    """Random ids with zeros where `masks` [B, S] has padding."""
    return np.random.default_rng(seed).integers(3, VOCABULARY, masks.shape) * masks


def _masks(layouts: list) -> np.ndarray:
    masks = np.zeros((len(layouts), _WIDTH), np.int64)
    for row, columns in zip(masks, layouts, strict=True):
        row[columns] = 1
    return masks


def _alone(session, tokens: list[int], steps: int) -> np.ndarray:
    """Logits of `tokens` as a sequence of its own, the last `steps` of them as steps of one token."""
    ids = np.array([tokens], np.int64)
    prompt = len(tokens) - steps
    ones = np.ones_like(ids)
    found, past = step(session, ids[:, :prompt], ones[:, :prompt])
    rows = [found[0]]
    for end in range(prompt + 1, len(tokens) + 1):
        found, past = step(session, ids[:, end - 1 : end], ones[:, :end], past)
        rows.append(found[0])
    return np.concatenate(rows)


def _assert_rows_equal_rows_alone(session, masks: np.ndarray, last_only: bool, steps: int = 3) -> None:
    """Compare a prompt and some cached steps."""
    ids, extra = _batch(masks), _batch(np.ones((len(masks), steps), np.int64), seed=1)
    found, past = step(session, ids, masks)
    batch = [[found[row][-1:] if last_only else found[row][masks[row] == 1] for row in range(len(masks))]]
    for index in range(steps):
        masks = np.concatenate([masks, np.ones((len(masks), 1), np.int64)], axis=1)
        found, past = step(session, extra[:, index : index + 1], masks, past)
        batch.append(list(found))
    for row in range(len(masks)):
        tokens = [*ids[row][masks[row, :_WIDTH] == 1], *extra[row]]
        expected = _alone(session, tokens, steps)
        got = np.concatenate([part[row] for part in batch])
        assert np.abs(got - expected).max() <= _TOLERANCE * np.abs(expected).max(), row


@pytest.mark.parametrize("name", by_kind(CONFIGS))
def test_rows_of_a_padded_batch_equal_rows_alone(kept, name):
    _, out = kept(name, logits="all")

    _assert_rows_equal_rows_alone(open_session(str(out)), _masks(list(_LAYOUTS.values())), last_only=False)


@pytest.mark.parametrize("name", ["llama", "llama_head20", "gpt2", "bloom", "gemma2"])
def test_logits_of_the_last_token_are_those_of_the_last_token(kept, name):
    _, out = kept(name)

    _assert_rows_equal_rows_alone(open_session(str(out)), _masks(list(_LAYOUTS.values())), last_only=True)


@pytest.fixture(scope="module")
def llama(kept):
    return open_session(str(kept("llama", logits="all")[1]))


@given(st.lists(st.lists(st.booleans(), min_size=_WIDTH, max_size=_WIDTH).filter(any), min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_any_mask_gives_each_row_its_own_logits(llama, rows):
    _assert_rows_equal_rows_alone(llama, np.array(rows, np.int64), last_only=False)


@pytest.mark.parametrize("name", ["llama", "llama_head20", "gpt2", "bloom", "gemma2"])
@pytest.mark.parametrize("width", [1, 8, 9])
def test_the_second_output_has_the_last_tokens_of_each_row_where_they_are_few(kept, name, width):
    _, out = kept(name, verify_tokens=8)
    session = open_session(str(out))
    masks = np.array([[1] * width, [0] * (width - 1) + [1], [1] + [0] * (width - 1), ([1, 0, 1] * width)[:width]])
    if name == "llama_head20":
        masks = masks[:3]  # tokens with holes between them are not moved together there, and holes count as columns
    ids = _batch(masks)

    last, few = outputs(session, ids, masks, ["logits", "verify_logits"])

    assert few.shape == (len(masks), width if width <= 8 else 1, VOCABULARY)
    for row, mask in enumerate(masks):
        tokens = ids[row][mask == 1][None]
        ends = range(1, tokens.shape[1] + 1)
        expected = np.concatenate([outputs(session, tokens[:, :end], np.ones((1, end), int))[0][0] for end in ends])
        count = min(few.shape[1], tokens.shape[1])
        assert np.abs(few[row, -count:] - expected[-count:]).max() <= _TOLERANCE * np.abs(expected).max(), row
        assert np.array_equal(few[row, -1:], last[row])


@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom", "gemma2"])
@pytest.mark.parametrize("logits", ["last", "all"])
def test_rows_take_several_tokens_after_a_prompt_where_the_export_asks_for_it(kept, name, logits):
    _, out = kept(name, logits=logits, batch_steps="many")
    session = open_session(str(out))
    masks = _masks([_LAYOUTS["left"], _LAYOUTS["right"], _LAYOUTS["holes"]])
    ids = _batch(masks)
    prompt = 6  # in which the first row has one token

    first, past = step(session, ids[:, :prompt], masks[:, :prompt])
    second, _ = step(session, ids[:, prompt:], masks, past)

    for row, mask in enumerate(masks):
        expected = _alone(session, list(ids[row][mask == 1]), 0)
        got = second[row] if logits == "last" else np.concatenate([first[row], second[row]])[mask == 1]
        assert np.abs(got - expected[-len(got) :]).max() <= _TOLERANCE * np.abs(expected).max(), row


@pytest.mark.parametrize("logits", ["last", "all"])
def test_genai_continues_the_rows_of_a_batch_as_it_continues_each_alone(kept, logits):
    _, out = kept("llama", logits=logits)
    model = genai.Model(str(out.parent))
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, VOCABULARY, length).tolist() for length in (12, 5, 2)]

    together = _continued(model, prompts)

    assert together == [_continued(model, [prompt])[0] for prompt in prompts]


def _continued(model: genai.Model, prompts: list[list[int]], tokens: int = 8) -> list[list[int]]:
    """Greedy tokens of genai, which takes unequal prompts with padding on the right."""
    width = max(map(len, prompts))
    ids = np.zeros((len(prompts), width), np.int32)
    for row, prompt in zip(ids, prompts, strict=True):
        row[: len(prompt)] = prompt
    parameters = genai.GeneratorParams(model)
    parameters.set_search_options(max_length=width + tokens, batch_size=len(prompts), do_sample=False)
    generator = genai.Generator(model, parameters)
    generator.append_tokens(ids)
    for _ in range(tokens):
        if not generator.is_done():
            generator.generate_next_token()
    return [generator.get_sequence(row)[width:].tolist() for row in range(len(prompts))]
