"""Layers with states of fixed size: what the graph carries, long prompts, and what is refused.

That logits are those of transformers, and that padding never enters a state, is tested for all tiny models alike
(test_parity.py, test_padded_batches.py).
"""

import json

import numpy as np
import onnx_ir as ir
import pytest
import torch
import transformers

from dualbinary import InputError
from exporter.options import ExportOptions
from exporter.pipeline import export
from exporter.verify.dequantized import write_dequantized
from tests.support.sessions import open_session, step
from tests.support.tiny_models import CONFIGS, WITH_STATES, edit_config, make_model

# Longer than the pieces in which transformers reads a prompt: 64 tokens of the delta rule, 256 of Mamba-2.
LONG = 300
# That of `--check` for float32: 1e-4 in a product, which adds up like the square root of their number.
TOLERANCE = 4e-3

# Layer and kind of each state to its shape without the batch.
STATES = {
    "lfm2": {"0.conv": [128, 2], "2.conv": [128, 2]},
    "lfm3": {"0.conv": [128, 6]},
    "qwen3_5_text": {"0.conv": [2 * 2 * 24 + 4 * 32, 3], "0.recurrent": [4, 24, 32]},
    "granitemoehybrid": {"0.conv": [256 + 2 * 2 * 16, 3], "0.recurrent": [8, 16, 32]},
    "granitemoehybrid_dense": {"1.conv": [256 + 2 * 2 * 16, 3], "1.recurrent": [8, 16, 32]},
}
ATTENTION = {"lfm2": [1], "lfm3": [1, 2], "qwen3_5_text": [1], "granitemoehybrid": [1], "granitemoehybrid_dense": [0]}


def carried(values, prefix):
    return {v.name.removeprefix(prefix): v for v in values if v.name.startswith(prefix)}


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("name", WITH_STATES)
def test_states_have_the_names_of_genai_and_one_size(kept, name, dtype):
    _, out = kept(name, dtype=dtype)
    graph = ir.load(out).graph
    past, present = carried(graph.inputs, "past."), carried(graph.outputs, "present.")

    assert {place: list(value.shape or ())[1:] for place, value in past.items()} == STATES[name]
    for place, value in past.items():
        assert present[place].shape == value.shape
        kind = ir.DataType.FLOAT16 if dtype == "fp16" and place.endswith("conv") else ir.DataType.FLOAT
        assert value.dtype == present[place].dtype == kind
    caches = carried(graph.inputs, "past_key_values.")
    assert set(caches) == {f"{layer}.{kind}" for layer in ATTENTION[name] for kind in ("key", "value")}
    decoder = json.loads((out.parent / "genai_config.json").read_text())["model"]["decoder"]
    assert len(decoder["layer_types"]) == decoder["num_hidden_layers"] == 2 + name.startswith("lfm")
    assert [i for i, kind in enumerate(decoder["layer_types"]) if kind == "full_attention"] == ATTENTION[name]


@pytest.mark.parametrize("name", WITH_STATES)
def test_all_linear_layers_are_the_operator(kept, name):
    result, out = kept(name, dtype="fp32")
    matrices = [v for v in ir.load(out).graph.initializers.values() if v.shape is not None and v.shape.rank() == 2]
    floats = [str(value.name) for value in matrices if str(value.name).endswith(".weight")]

    assert all(name.endswith("gate.weight") for name in floats)  # the router, which is no linear layer
    layers = [linear.parameter for node in result.graph.nodes for linear in node.linears]
    assert sum(".self_attn." in layer for layer in layers) == {"lfm2": 8, "lfm3": 12, "qwen3_5_text": 9}.get(name, 6)


@pytest.mark.parametrize("name", WITH_STATES)
def test_a_long_prompt_at_once_and_token_by_token_is_that_of_transformers(tiny_model, fitted, tmp_path, name):
    model = tiny_model(name)
    edit_config(model, max_position_embeddings=512)
    result, out = fitted(model, logits="all")
    (tmp_path / "reference").mkdir()
    write_dequantized(result, out, tmp_path / "reference")
    reference = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "reference", dtype=torch.float32)
    ids = np.random.default_rng(0).integers(3, 250, (1, LONG))
    with torch.inference_mode():
        expected = reference(torch.from_numpy(ids), use_cache=False).logits.numpy()
    ones = np.ones_like(ids)

    for library in (True, False):
        session = open_session(str(out), library=library)
        whole, _ = step(session, ids, ones)
        pieces, past = [], None
        for begin, end in [(0, 100), *((at, at + 1) for at in range(100, LONG))]:
            found, past = step(session, ids[:, begin:end], ones[:, :end], past)
            pieces.append(found)

        for found in (whole, np.concatenate(pieces, axis=1)):
            assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize(
    ("name", "values", "options", "message"),
    [
        ("lfm2", {"layer_types": ["conv"] * 3}, {}, "need layers with full attention beside them"),
        ("lfm2", {"head_dim": 20}, {}, "of heads whose size is a multiple of 8"),
        ("lfm2", {"layer_types": ["conv", "full_attention", "sliding_attention"]}, {}, "only 'conv' and 'full_att"),
        ("lfm2", {"conv_L_cache": 1}, {}, "a convolution over 1 tokens is not supported"),
        ("qwen3_5_text", {}, {"target": "cuda"}, "target: expected cpu for a qwen3_5_text"),
        (
            "lfm2",
            {
                "rope_parameters": {
                    "rope_type": "longrope",
                    "rope_theta": 1e4,
                    "factor": 2.0,
                    "original_max_position_embeddings": 64,
                    "short_factor": [1.0] * 16,
                    "long_factor": [2.0] * 16,
                }
            },
            {},
            "'longrope' are not supported for a lfm2",
        ),
    ],
)
def test_what_states_do_not_go_with_is_refused(monkeypatch, tmp_path, name, values, options, message):
    model_type, usual = CONFIGS[name]
    monkeypatch.setitem(CONFIGS, "changed", (model_type, usual | values))
    model = make_model("changed", tmp_path / "model")

    with pytest.raises(InputError, match=message):
        export(model, tmp_path / "out" / "model.onnx", ExportOptions(**options))

    assert not (tmp_path / "out").exists()
