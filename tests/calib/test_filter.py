"""The choice of generated sequences: by discrepancy or at random, going on after a kill, scores of another run."""

import json

import pytest
import torch

from calib.config import CalibConfig, DataConfig
from calib.layers import full_precision
from calib.losses import kl_divergence
from calib.stages.context import RunContext
from calib.stages.filter import STORE_EVERY, choose
from calib.state import WorkDirectory
from dualbinary import InputError
from dualbinary.contract.weight import PlaneFormat
from tests.support.fitted_layers import fitted
from tests.support.tiny_models import VOCABULARY, make_model

FORMAT = PlaneFormat(1, 64, offset=True)
COUNT, T = 2 * STORE_EVERY + 5, 12


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return fitted(make_model("llama", tmp_path_factory.mktemp("models") / "llama"), FORMAT)


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(0, VOCABULARY, (COUNT, T), generator=torch.Generator().manual_seed(0))


def chosen(source, tokens, path, progress=lambda *_: None, seed=0, **values):
    config = CalibConfig(seed=seed, data=DataConfig(generate=COUNT, **values))
    with WorkDirectory(path, {}) as work:
        told = RunContext(source, config, work, torch.float32, progress=lambda _, *done: progress(*done))
        return choose(told, tokens)


@torch.no_grad()
def discrepancies(source, tokens):
    student = source.model(input_ids=tokens).logits[:, :-1]
    with full_precision(source.model):
        teacher = source.model(input_ids=tokens).logits[:, :-1]
    return torch.stack([kl_divergence(*pair).mean() for pair in zip(teacher, student, strict=True)])


def test_keeps_those_where_student_and_teacher_differ_most(source, tokens, tmp_path):
    kept, record = chosen(source, tokens, tmp_path / "work", keep=7)
    expected = discrepancies(source, tokens)
    # Sums of a hundred float32 terms of either sign in another order.
    assert record["scores"] == pytest.approx(expected.tolist(), rel=1e-3)
    best = expected.topk(7).indices.sort().values
    assert torch.equal(kept, tokens[best])
    assert record["chosen"] == best.tolist()
    assert record["distinct"][0] == len(set(tokens[0].tolist())) / T
    assert expected.max() > 1.1 * expected.min()  # else any seven would do


@pytest.mark.parametrize("by", ["random", "discrepancy"])
def test_a_larger_number_keeps_what_a_smaller_one_does(source, tokens, tmp_path, by):
    records = [chosen(source, tokens, tmp_path / f"{keep}", keep=keep, keep_by=by)[1] for keep in (4, 9, COUNT)]
    sets = [set(record["chosen"]) for record in records]
    assert sets[0] < sets[1] < sets[2] == set(range(COUNT))


def test_random_ones_depend_on_the_seed_alone_and_cost_no_pass(source, tokens, tmp_path):
    records = [
        chosen(source, tokens, tmp_path / f"{number}", seed=seed, keep=5, keep_by="random")[1]
        for number, seed in enumerate((0, 0, 1))
    ]
    assert records[0] == records[1] != records[2]
    assert records[0]["scores"] is None


def test_goes_on_after_a_kill_with_what_was_scored(source, tokens, tmp_path):
    seen = []

    def kill(done, _):
        seen.append(done)
        if done == (STORE_EVERY + 3) * T:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        chosen(source, tokens, tmp_path / "killed", kill, keep=7)
    seen.clear()
    _, record = chosen(source, tokens, tmp_path / "killed", lambda done, _: seen.append(done), keep=7)
    assert seen[0] == (STORE_EVERY + 1) * T
    assert record == chosen(source, tokens, tmp_path / "whole", keep=7)[1]


def test_takes_the_scores_of_another_run_but_only_of_the_same_sequences(source, tokens, tmp_path):
    _, record = chosen(source, tokens, tmp_path / "work", keep=7)
    file = tmp_path / "calibration.json"
    file.write_text(json.dumps({"filter": record}))

    def never(*_):
        raise AssertionError

    again = chosen(source, tokens, tmp_path / "again", never, keep=7, scores=str(file))
    assert again[1] == record
    with pytest.raises(InputError, match="has no scores of these"):
        chosen(source, tokens.flip(0), tmp_path / "other", keep=7, scores=str(file))
    for damaged in ({}, {"filter": {**record, "scores": None}}, {"filter": {**record, "scores": [0.5] * 3}}):
        file.write_text(json.dumps(damaged))
        with pytest.raises(InputError, match="has no scores of these"):
            chosen(source, tokens, tmp_path / "damaged", keep=7, scores=str(file))


def test_cannot_keep_more_than_there_are(source, tokens, tmp_path):
    with pytest.raises(InputError, match=r"--keep 37: 3 sequences are there"):
        chosen(source, tokens[:3], tmp_path / "work", keep=COUNT)
