"""A row of a padded batch gets the logits that it gets alone, on whichever side its padding is."""

import numpy as np
import onnxruntime_genai as og
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.sessions import open_session, step
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
# Sums of float32 in another order, through two layers that amplify them.
_TOLERANCE = 2e-5


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


@pytest.mark.parametrize("name", CONFIGS)
def test_rows_of_a_padded_batch_equal_rows_alone(pristine_model, exported, name):
    _, out = exported(pristine_model(name), logits="all")

    _assert_rows_equal_rows_alone(open_session(str(out)), _masks(list(_LAYOUTS.values())), last_only=False)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom", "gemma2"])
def test_logits_of_the_last_token_are_those_of_the_last_token(pristine_model, exported, name):
    _, out = exported(pristine_model(name))

    _assert_rows_equal_rows_alone(open_session(str(out)), _masks(list(_LAYOUTS.values())), last_only=True)


@pytest.fixture(scope="module")
def llama(pristine_model, tmp_path_factory):
    from exporter.options import ExportOptions
    from exporter.pipeline import export

    out = tmp_path_factory.mktemp("padded") / "model.onnx"
    export(pristine_model("llama"), out, ExportOptions(logits="all"))
    return open_session(str(out))


@given(st.lists(st.lists(st.booleans(), min_size=_WIDTH, max_size=_WIDTH).filter(any), min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_any_mask_gives_each_row_its_own_logits(llama, rows):
    _assert_rows_equal_rows_alone(llama, np.array(rows, np.int64), last_only=False)
