"""`--rotate`: a plain model whose weights are fitted in a rotated basis."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dualbinary import InputError
from dualbinary.errors import OptionError
from exporter.options import ExportOptions
from exporter.pipeline import export
from exporter.verify import check
from tests.support.quantized_checkpoints import quantize


def test_layers_are_fitted_in_the_basis_that_the_graph_rotates_to(tiny_model, tmp_path, library):
    """Weights with a few large inputs lose less there, which is what rotating is for."""
    directory = tiny_model("llama")
    file = directory / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.0.self_attn.q_proj"
    tensors[f"{name}.weight"][:, ::16] *= 20
    save_file(tensors, file, metadata={"format": "pt"})
    errors = []
    for rotate in (None, 64):
        out = tmp_path / str(rotate) / "model.onnx"
        result = export(directory, out, ExportOptions(planes=2, levels="even", group_size=32, rotate=rotate))
        assert check(result, out, library).passed
        rows = {row["module"]: row for row in result.report["layers"]}
        assert {row["rotation"] for row in rows.values()} <= {rotate, rotate and 32}
        assert result.report["totals"]["rotated_layers"] == (14 if rotate else 0)
        errors.append(rows[name]["relative_squared_error"])
    assert errors[1] < 0.7 * errors[0]


def test_a_layer_that_is_exact_stays_as_it_is(tiny_model, tmp_path, library):
    directory = tiny_model("llama")
    file = directory / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.1.mlp.up_proj.weight"
    rng = np.random.default_rng(0)
    tensors[name] = torch.from_numpy(rng.integers(-1, 2, tuple(tensors[name].shape)).astype(np.float32) * 0.125)
    save_file(tensors, file, metadata={"format": "pt"})
    out = tmp_path / "out" / "model.onnx"
    result = export(directory, out, ExportOptions(rotate=64))
    rotations = {row["module"]: (row["exact"], row["rotation"]) for row in result.report["layers"]}
    assert rotations.pop("model.layers.1.mlp.up_proj") == (True, None)
    assert all(exact is False and size for exact, size in rotations.values())
    assert check(result, out, library).passed


def test_a_checkpoint_has_its_own(tiny_model, tmp_path):
    quantize(tiny_model("llama"), tmp_path / "c")
    with pytest.raises(InputError, match="a checkpoint that is exported as it is stored"):
        export(tmp_path / "c", tmp_path / "out" / "model.onnx", ExportOptions(rotate=64))


@pytest.mark.parametrize("value", [1, 96, 65536])
def test_other_numbers_than_powers_of_two_are_refused(value):
    with pytest.raises(OptionError, match="rotate"):
        ExportOptions(rotate=value)
