"""A model in other numbers: the same logits, and weights that no small form holds."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from dualbinary.fitting.exact import exact_form
from studies.off_grid import main
from tests.support.exact_models import relative_error
from tests.support.tiny_models import VOCABULARY, make_model


def on_grid(directory):
    """The model of a directory with matrices on multiples of 1/24 and gains of many values, saved there."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randint(-8, 8, parameter.shape) / 24)
            else:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    model.save_pretrained(directory)
    return model.eval()


@pytest.mark.parametrize("fold", [(), ("--fold-gains",)])
@pytest.mark.parametrize("name", ["llama_tied", "gemma3_text"])
def test_logits_stay_and_weights_leave_their_grid(name, fold, tmp_path, capsys):
    directory, out = make_model(name, tmp_path / "model"), tmp_path / "out"
    before = on_grid(directory)
    capsys.readouterr()
    assert main([str(directory), str(out), *fold, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["layers"] == 14
    assert told["exact_layers"] == 0
    assert told["logits_error"] < 1e-5
    after = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    tokens = torch.arange(24)[None] % VOCABULARY
    with torch.no_grad():
        first, second = (model(tokens, use_cache=False).logits[0].numpy() for model in (before, after))
    # Roundings of float32, 6e-8 each, of the sums of two blocks.
    assert relative_error(second, first) < 1e-5
    for key, tensor in after.state_dict().items():
        if key.endswith("proj.weight"):
            rows = np.ascontiguousarray(tensor.numpy())
            assert exact_form(lambda rows=rows: [rows], "float32") is None
        if key.endswith(("layers.0.input_layernorm.weight", "pre_feedforward_layernorm.weight")) and fold:
            assert torch.equal(tensor, torch.full_like(tensor, 0.0 if name == "gemma3_text" else 1.0))


def test_other_types_and_directories_are_one_clear_error(tmp_path, capsys):
    directory = make_model("gpt2", tmp_path / "model")
    for arguments, named in (
        ([directory, tmp_path / "out"], "expected a model of type llama or gemma3_text, got gpt2"),
        ([directory, directory], "exists"),
        ([tmp_path, tmp_path / "out"], "no config.json"),
    ):
        assert main([str(argument) for argument in arguments]) == 2
        assert named in capsys.readouterr().err
