"""Sequences that a model writes itself: what they are made of, that a killed run resumes, and what a file may hold."""

import copy
import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from calib.data import generate as generating
from calib.data.generate import generate_to, load_windows
from dualbinary import DualBinaryError, InputError
from tests.support.tiny_models import VOCABULARY, make_model
from tests.support.tiny_tokenizers import write_tokenizer

LENGTH = 12
ORDINARY = VOCABULARY - 3  # begin, end and padding are not
BATCH = 4


@pytest.fixture(scope="module")
def models_by_name(tmp_path_factory):
    """Tiny models, loaded once."""
    made = {}

    def get(name: str):
        if name not in made:
            directory = make_model(name, tmp_path_factory.mktemp(name))
            made[name] = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
        return made[name]

    return get


@pytest.fixture
def model(models_by_name):
    return models_by_name("llama")


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(generating, "MAX_SEQUENCES", BATCH)


def written(path, model, count=10, length=LENGTH, seed=0, **options):
    return generate_to(path, model, count, length, seed=seed, dtype=torch.float32, **options)


@pytest.mark.parametrize("name", ["llama", "mistral_window", "gemma2", "opt", "gpt2", "bloom", "qwen3_moe"])
@torch.no_grad()
def test_the_second_to_fourth_tokens_are_the_likeliest(tmp_path, models_by_name, name):
    """The whole sequence through the model at once, without a cache, agrees with what was written token by token."""
    model = models_by_name(name)
    tokens = written(tmp_path / "a", model).long()
    logits = model(tokens, use_cache=False).logits
    top = logits[:, :3].topk(2).values
    likeliest = logits[:, :3].gather(-1, tokens[:, 1:4, None])[..., 0]
    # Two ways to the same logits in float32: nearly equal logits may change places. Errors are near 1e-6.
    assert (top[..., 0] - likeliest).max() < 1e-4
    assert (top[..., 0] - top[..., 1] > 1e-4).all()  # so the check above tells the first from the second


@torch.no_grad()
def test_the_rest_is_drawn_from_the_whole_distribution(tmp_path, model, monkeypatch):
    monkeypatch.setattr(generating, "MAX_SEQUENCES", 64)
    tokens = written(tmp_path / "a", model, 253, 20).long()
    log_p = model(tokens, use_cache=False).logits[:, 5:-1].log_softmax(-1)
    # The log-probability of what was drawn less its expectation, the negative entropy, has mean 0 if draws are from
    # the whole distribution. Over n draws its standard deviation is that of one, root mean square, by root n.
    chosen = log_p.gather(-1, tokens[:, 6:, None])[..., 0]
    mean = (log_p.exp() * log_p).sum(-1)
    variance = (log_p.exp() * log_p**2).sum(-1) - mean**2
    error = (chosen - mean).mean() / (variance.mean() / chosen.numel()).sqrt()
    assert abs(error) < 4


def test_three_to_five_are_greedy_and_each_batch_draws_for_itself(tmp_path, model, monkeypatch):
    """A model of zeros finds all 256 tokens alike: 0 is the likeliest, and what is drawn shows the generator alone."""
    monkeypatch.setattr(generating, "MAX_SEQUENCES", 21)
    zeros = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in zeros.parameters():
            parameter.zero_()
    tokens = written(tmp_path / "a", zeros, 252)
    greedy = (tokens[:, 1:] == 0).long().cumprod(-1).sum(-1)
    # A third of 252 has each length: 84 with a standard deviation of 7.5. One in 256 draws adds a 0.
    assert greedy.min() == 3
    assert all(54 < int((greedy == length).sum()) < 114 for length in (3, 4, 5))
    drawn = tokens[:, 6:]
    assert len(drawn.unique(dim=0)) == len(drawn)
    other = written(tmp_path / "b", zeros, 252, seed=1)[:, 6:]
    assert len(torch.cat([drawn, other]).unique(dim=0)) == 2 * len(drawn)


def test_the_first_token_sweeps_the_vocabulary(tmp_path, model, monkeypatch):
    monkeypatch.setattr(generating, "MAX_SEQUENCES", 64)
    first = written(tmp_path / "a", model, ORDINARY + 20, 2)[:, 0].tolist()
    assert sorted(first[:ORDINARY]) == list(range(3, VOCABULARY))
    assert len(set(first[ORDINARY:])) == 20
    assert first[:ORDINARY] != sorted(first[:ORDINARY])
    assert first[ORDINARY:] != first[:20]


def test_special_tokens_and_ids_beyond_the_tokenizer_begin_nothing(tmp_path, models_by_name):
    directory = make_model("llama", tmp_path / "model")
    tokenizer = Tokenizer(models.WordLevel({f"w{index}": index for index in range(10)}, unk_token="w0"))
    added = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", unk_token="w0")
    added.add_tokens(["more"])
    added.save_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    assert sorted(written(tmp_path / "a", model, 9, 2)[:, 0].tolist()) == list(range(1, 10))


@torch.no_grad()
def test_behind_a_start_token_the_second_one_sweeps_and_likeliest_ones_follow(tmp_path):
    directory = make_model("llama", tmp_path / "model")
    write_tokenizer(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    tokens = written(tmp_path / "a", model, start=True).long()
    assert tokens.shape == (10, LENGTH)
    assert tokens[:, 0].unique().tolist() == [1]
    assert len(tokens[:, 1].unique()) == 10
    assert tokens[:, 1].min() > 2
    likeliest = model(tokens, use_cache=False).logits.argmax(-1)
    assert torch.equal(tokens[:, 2:5], likeliest[:, 1:4])
    assert not torch.equal(tokens[:, 7:], likeliest[:, 6:-1])
    with safe_open(tmp_path / "a", framework="pt") as file:
        assert json.loads(file.metadata()["json"])["start"] == 1
    with pytest.raises(InputError, match="holds sequences of another run"):
        written(tmp_path / "a", model)


def test_a_start_token_that_no_tokenizer_has_is_refused(tmp_path):
    directory = make_model("llama", tmp_path / "model")
    write_tokenizer(directory, bos=False)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with pytest.raises(InputError, match="its tokenizer puts no token before a text"):
        written(tmp_path / "a", model, start=True)


def test_the_seed_decides(tmp_path, model):
    same = [written(tmp_path / name, model) for name in "ab"]
    assert torch.equal(*same)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    other = written(tmp_path / "c", model, seed=1)
    assert not torch.equal(other[:, 0], same[0][:, 0])


def test_a_file_holds_what_was_returned_and_how_it_was_made(tmp_path, model):
    seen = []
    path = tmp_path / "a.safetensors"
    tokens = written(path, model, progress=lambda *numbers: seen.append(numbers))
    assert tokens.dtype == torch.int32
    assert tokens.shape == (10, LENGTH)
    assert torch.equal(load_windows(path, LENGTH, VOCABULARY), tokens)
    with safe_open(path, framework="pt") as file:
        metadata = json.loads(file.metadata()["json"])
    digest = hashlib.sha256(tokens.numpy().tobytes()).hexdigest()
    assert {**metadata, "weights": None, "model": None} == {
        "digest": digest,
        "model": None,
        "weights": None,
        "seed": 0,
        "count": 10,
        "length": LENGTH,
        "drawn": 2,
        "dtype": "float32",
    }
    assert metadata["model"] == Path(model.config.name_or_path).name
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert seen == sorted(seen)
    assert seen[-1] == (10 * LENGTH, 10 * LENGTH)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("stop", [1, 4 * LENGTH, 4 * LENGTH + 9, 8 * LENGTH, 10 * LENGTH])
def test_a_killed_run_goes_on_to_the_same_file(tmp_path, model, stop):
    expected = written(tmp_path / "whole", model)

    def kill(done, total):
        if done >= stop:
            raise Killed

    path = tmp_path / "killed"
    with pytest.raises(Killed):
        written(path, model, progress=kill)
    assert not path.exists()
    seen = []
    assert torch.equal(written(path, model, progress=lambda done, _: seen.append(done)), expected)
    assert path.read_bytes() == (tmp_path / "whole").read_bytes()
    # Batches that were stored are not written again: of them only the end is told.
    stored = (stop - 1) // (BATCH * LENGTH)
    assert len(seen) == 3 * LENGTH - stored * (LENGTH - 1)


def test_parts_of_another_run_and_damaged_ones_are_written_again(tmp_path, model):
    expected = written(tmp_path / "whole", model)
    path, parts = tmp_path / "a", tmp_path / "a.parts"

    def kill(done, total):
        if done == total:
            raise Killed

    with pytest.raises(Killed):
        generate_to(path, model, 10, LENGTH, seed=0, dtype=torch.bfloat16, progress=kill)
    assert len(list(parts.iterdir())) == 2
    assert not torch.equal(load_windows(parts / "0000.safetensors", LENGTH, VOCABULARY), expected[:BATCH])
    (parts / "0001.safetensors").write_bytes(b"damaged")
    (parts / "0002.safetensors.new").write_bytes(b"half")
    assert torch.equal(written(path, model), expected)


def test_parts_of_batches_of_another_size_are_written_again(tmp_path, model, monkeypatch):
    expected = written(tmp_path / "whole", model)

    def kill(done, total):
        if done == total:
            raise Killed

    monkeypatch.setattr(generating, "MAX_SEQUENCES", BATCH - 1)
    with pytest.raises(Killed):
        written(tmp_path / "a", model, progress=kill)
    monkeypatch.setattr(generating, "MAX_SEQUENCES", BATCH)
    assert torch.equal(written(tmp_path / "a", model), expected)


def test_a_finished_file_is_read_and_never_overwritten(tmp_path, model):
    path = tmp_path / "a"
    expected = written(path, model)

    def never(done, total):
        raise AssertionError

    assert torch.equal(written(path, model, progress=never), expected)
    for options in ({"seed": 1}, {"count": 9}, {"length": LENGTH + 1}):
        with pytest.raises(InputError, match="another run"):
            written(path, model, **options)
    tuned = copy.deepcopy(model)
    torch.nn.init.zeros_(tuned.get_submodule("model.norm").weight)
    with pytest.raises(InputError, match="another run"):
        written(path, tuned)
    assert torch.equal(load_file(path)["tokens"], expected)


def test_a_run_that_is_killed_when_all_is_written_leaves_nothing_to_the_next(tmp_path, model, monkeypatch):
    def kill(_directory):
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(generating.shutil, "rmtree", kill)
        written(tmp_path / "a", model)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "a.parts"]
    written(tmp_path / "a", model)
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_bfloat16_products_write_text_too(tmp_path, model):
    path = tmp_path / "a"
    generate_to(path, model, 5, LENGTH, seed=0, dtype=torch.bfloat16)
    assert load_windows(path, LENGTH, VOCABULARY).shape == (5, LENGTH)


def test_a_model_that_cannot_write_is_refused(tmp_path, models_by_name):
    model = models_by_name("gpt2")
    with pytest.raises(InputError, match="--length 129"):
        written(tmp_path / "a", model, 1, 129)
    directory = make_model("llama", tmp_path / "broken")
    broken = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.no_grad():
        next(broken.parameters())[:] = float("nan")
    with pytest.raises(DualBinaryError, match="not numbers at token 1"):
        written(tmp_path / "a", broken)
    shutil.rmtree(directory)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"tokens": torch.zeros(3, LENGTH, dtype=torch.int64)}, "I64"),
        ({"tokens": torch.zeros(3, LENGTH, dtype=torch.float32)}, "F32"),
        ({"tokens": torch.zeros(LENGTH, dtype=torch.int32)}, r"I32 \[12\]"),
        ({"tokens": torch.zeros(0, LENGTH, dtype=torch.int32)}, r"\[0, 12\]"),
        ({"tokens": torch.zeros(3, LENGTH + 1, dtype=torch.int32)}, "set --length 13"),
        ({"tokens": torch.full((3, LENGTH), VOCABULARY, dtype=torch.int32)}, "token 256, expected 0 to 255"),
        ({"tokens": torch.full((3, LENGTH), -1, dtype=torch.int32)}, "token -1, expected 0 to 255"),
        ({"other": torch.zeros(3, LENGTH, dtype=torch.int32)}, "not a file of generated sequences"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, tensors, message):
    save_file(tensors, tmp_path / "a")
    with pytest.raises(InputError, match=message):
        load_windows(tmp_path / "a", LENGTH, VOCABULARY)


def test_what_is_no_file_of_tensors_is_refused(tmp_path, model):
    path = tmp_path / "a"
    with pytest.raises(InputError, match="missing"):
        load_windows(path, LENGTH, VOCABULARY)
    with pytest.raises(InputError, match="not a file of"):
        load_windows(tmp_path, LENGTH, VOCABULARY)
    written(path, model)
    whole = path.read_bytes()
    for content in (b"", b"{}", whole[:-1], whole[:20], b"\xff" * 40):
        path.write_bytes(content)
        with pytest.raises(InputError, match="not a file of"):
            load_windows(path, LENGTH, VOCABULARY)
