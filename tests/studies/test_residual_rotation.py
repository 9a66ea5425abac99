"""A model in a rotated basis: the same logits, other weights."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from studies.residual_rotation import main
from tests.support.exact_models import relative_error
from tests.support.tiny_models import VOCABULARY, make_model


@pytest.mark.parametrize("options", [(), ("--no-heads", "--block", "32"), ("--gains-alone",)])
@pytest.mark.parametrize("name", ["llama_tied", "qwen2", "qwen3"])
def test_logits_stay_and_weights_turn(name, options, tmp_path, capsys):
    directory, out = make_model(name, tmp_path / "model"), tmp_path / "out"
    capsys.readouterr()
    assert main([str(directory), str(out), *options, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    rotated = "--gains-alone" not in options
    assert told["block"] == (None if not rotated else 32 if "--block" in options else 128)
    assert (told["head_block"] is None) == (bool(options))
    before, after = (
        AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32).eval() for place in (directory, out)
    )
    tokens = torch.arange(24)[None] % VOCABULARY
    with torch.no_grad():
        first, second = (model(tokens, use_cache=False).logits[0].numpy() for model in (before, after))
    # Roundings of float32, 6e-8 each, of the sums of two blocks.
    assert relative_error(second, first) < 1e-5
    weights, norms = after.model.layers[0].mlp.down_proj.weight, after.model.norm.weight
    assert torch.equal(norms, torch.ones_like(norms))
    assert torch.equal(weights, before.model.layers[0].mlp.down_proj.weight) == (not rotated)


def test_other_types_and_directories_are_one_clear_error(tmp_path, capsys):
    directory = make_model("gemma2", tmp_path / "model")
    for arguments, named in (
        (
            [directory, tmp_path / "out"],
            "of type llama or mistral or qwen2 or qwen3 or smollm3, got gemma2",
        ),
        ([directory, directory], "exists"),
        ([tmp_path, tmp_path / "out"], "no config.json"),
    ):
        assert main([str(argument) for argument in arguments]) == 2
        assert named in capsys.readouterr().err
