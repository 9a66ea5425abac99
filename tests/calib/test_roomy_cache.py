"""Keys and values of what a model writes, in memory that is taken once: the same tokens, and nothing joined."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from calib.data import generate as generating
from calib.data.generate import generate_to
from tests.support.tiny_models import make_model


@pytest.mark.parametrize("name", ["llama", "mistral_window", "gemma2", "opt", "gpt2", "bloom", "qwen3_moe"])
def test_room_for_keys_and_values_changes_no_token(tmp_path, name, monkeypatch):
    directory = make_model(name, tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    roomy = generate_to(tmp_path / "a", model, 6, 24, seed=0, dtype=torch.float32)
    monkeypatch.setattr(generating, "make_room", lambda *_: None)
    assert torch.equal(roomy, generate_to(tmp_path / "b", model, 6, 24, seed=0, dtype=torch.float32))


def test_room_is_taken_once(tmp_path, monkeypatch):
    directory = make_model("llama", tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    joined = []
    cat = torch.cat
    monkeypatch.setattr(
        torch, "cat", lambda tensors, *args, **kwargs: joined.append(tensors) or cat(tensors, *args, **kwargs)
    )
    generate_to(tmp_path / "a", model, 6, 24, seed=0, dtype=torch.bfloat16)
    heads = model.config.num_key_value_heads
    assert not [each for each in joined if each[0].ndim == 4 and each[0].shape[1] == heads and each[0].shape[2] > 1]
