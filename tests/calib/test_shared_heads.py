"""Explicit attention in which heads share keys and values: the logits and gradients of transformers' own."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from calib.models.shared_heads import explicit_attention
from tests.support.tiny_models import VOCABULARY, make_model


def results(model, name, tokens, mask=None):
    """Logits of all tokens, logits of the last one behind the others, and the gradient of the embedding."""
    model.set_attn_implementation(name)
    model.zero_grad()
    logits = model(tokens, attention_mask=mask, use_cache=False).logits
    logits.square().mean().backward()
    gradient = model.get_input_embeddings().weight.grad.clone()
    with torch.no_grad():
        cache = model(tokens[:, :-1], attention_mask=None if mask is None else mask[:, :-1]).past_key_values
        last = model(tokens[:, -1:], attention_mask=mask, past_key_values=cache).logits
    return logits.detach(), last, gradient


@pytest.mark.parametrize("name", ["llama", "mistral_window", "qwen2", "qwen3", "qwen3_moe", "granite"])
def test_it_gives_what_the_models_own_gives(tmp_path, name):
    model = AutoModelForCausalLM.from_pretrained(make_model(name, tmp_path), dtype=torch.float32).eval()
    config = model.config
    chosen = explicit_attention(model)
    assert chosen != "eager"
    assert config.num_attention_heads > config.num_key_value_heads
    tokens = torch.randint(3, VOCABULARY, (3, 20), generator=torch.Generator().manual_seed(0))
    padded = torch.ones_like(tokens)
    padded[0, :5] = 0
    for mask in (None, padded):
        seen = slice(None) if mask is None else slice(1, None)  # what padding itself gives nobody looks at
        for ours, theirs in zip(
            results(model, chosen, tokens, mask), results(model, "eager", tokens, mask), strict=True
        ):
            ours, theirs = (value[seen] if value.ndim == 3 else value for value in (ours, theirs))
            # The order of float32 sums: a few times 2^-24 of the largest for each of some ten products in a row.
            assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()


@pytest.mark.parametrize("name", ["deepseek_v3", "youtu"])
def test_values_may_be_narrower_than_queries(tmp_path, name):
    model = AutoModelForCausalLM.from_pretrained(make_model(name, tmp_path), dtype=torch.float32).eval()
    assert model.config.v_head_dim < model.config.qk_head_dim
    assert explicit_attention(model) != "eager"
    tokens = torch.randint(3, VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(0))
    ours, theirs = (results(model, each, tokens) for each in (explicit_attention(model), "eager"))
    for found, wanted in zip(ours, theirs, strict=True):
        assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()  # as above


def test_code_without_a_source_keeps_its_attention(tmp_path, monkeypatch):
    model = AutoModelForCausalLM.from_pretrained(make_model("llama", tmp_path), dtype=torch.float32)
    monkeypatch.setattr("inspect.getsource", lambda _: (_ for _ in ()).throw(OSError("no source")))
    assert explicit_attention(model) == "eager"


@pytest.mark.parametrize("name", ["gemma2", "bloom", "gpt2"])
def test_models_that_attend_in_another_way_keep_it(tmp_path, name):
    model = AutoModelForCausalLM.from_pretrained(make_model(name, tmp_path), dtype=torch.float32)
    assert explicit_attention(model) == "eager"
