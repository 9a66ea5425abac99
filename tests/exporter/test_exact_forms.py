"""Plain directories whose weights are those of a quantized model."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dualbinary import DualBinaryError
from exporter.graph import plane_formats
from exporter.options import ExportOptions

LINEAR = "_proj.weight"


def on_grids(directory, make, names=(LINEAR,), dtype=torch.float16):
    """Replace the weights of `directory` whose names end like one of `names` by make(rng, N, K), stored in `dtype`."""
    path = directory / "model.safetensors"
    tensors = load_file(path)
    for seed, (name, tensor) in enumerate(sorted(tensors.items())):
        if name.endswith(names):
            made = make(np.random.default_rng(seed), *tensor.shape)
            tensors[name] = torch.from_numpy(np.asarray(made, np.float32)).to(dtype)
    save_file(tensors, path, metadata={"format": "pt"})
    return directory


def ternary(rng, n, k):
    steps = rng.uniform(0.01, 0.1, (n, -(-k // 32))).astype(np.float16)
    return np.repeat(steps.astype(np.float64), 32, axis=1)[:, :k] * rng.integers(-1, 2, (n, k))


def one_step(rng, n, k):
    return 0.05 * rng.integers(-1, 2, (n, k))


@pytest.mark.parametrize(("make", "bits"), [(ternary, 2.5), (one_step, 2.0)])
def test_export_of_ternary_weights_has_their_own_bits_and_says_exact(tiny_model, exported, make, bits):
    directory = on_grids(tiny_model("llama"), make)
    result, _ = exported(directory, fallback="none")
    rows = result.report["layers"]
    assert {(row["exact"], row["planes"], row["levels"], row["zero"]) for row in rows} == {(True, 2, "even", 1.0)}
    assert all(row["relative_squared_error"] < 1e-6 for row in rows)
    assert result.report["totals"]["bits_per_weight"] == pytest.approx(bits, abs=0.3)  # short rows are padded
    assert any(f"{len(rows)} of {len(rows)} layers are stored exactly" in line for line in result.warnings)
    assert not any("fitted" in line for line in result.warnings)


@pytest.mark.parametrize(
    ("make", "layout"),
    [
        (ternary, "plain"),
        (one_step, "avx512"),
        pytest.param(ternary, "avx512", marks=pytest.mark.slow),
        pytest.param(one_step, "plain", marks=pytest.mark.slow),
    ],
)
def test_weights_that_memory_does_not_keep_are_computed_again(tiny_model, exported, monkeypatch, make, layout):
    """Of a tensor's one step some layouts make one for each group, so that what was kept is of another form."""
    directory = on_grids(tiny_model("llama"), make)
    files = []
    for limit in (1 << 30, 0):
        monkeypatch.setattr(plane_formats, "KEPT_BYTES", limit)
        _, out = exported(directory, layout=layout, fallback="none")
        files.append(out.with_name(f"{out.name}.data").read_bytes())
    assert files[0] == files[1]


def test_export_of_some_exact_weights_gives_them_nodes_of_their_own(tiny_model, exported):
    directory = on_grids(tiny_model("llama"), ternary, names=("q_proj.weight", "down_proj.weight"))
    result, _ = exported(directory, fallback="none")
    by_module = {row["module"].rpartition(".")[2]: row for row in result.report["layers"]}
    assert by_module["q_proj"]["exact"] and by_module["down_proj"]["exact"]
    assert not by_module["k_proj"]["exact"]
    assert by_module["q_proj"]["node"] != by_module["k_proj"]["node"] == by_module["v_proj"]["node"]
    assert by_module["k_proj"]["scale_type"] == "uint8"
    assert sum("layers are" in line for line in result.warnings) == 2


def test_export_with_planes_asked_for_looks_for_no_exact_form(tiny_model, exported):
    result, _ = exported(on_grids(tiny_model("llama"), ternary), planes=3, fallback="none")
    assert {(row["exact"], row["planes"], row["levels"]) for row in result.report["layers"]} == {(False, 3, "free")}


def test_export_with_planes_auto_fits_the_others_as_asked(tiny_model, exported):
    directory = on_grids(tiny_model("llama"), ternary, names=("down_proj.weight",))
    result, _ = exported(directory, planes="auto", levels="even", zero="group", scale_bits=16, fallback="none")
    forms = {(row["exact"], row["planes"], row["zero"], row["scale_type"]) for row in result.report["layers"]}
    assert forms == {(True, 2, 1.0, "float16"), (False, 4, "group", "float16")}
    assert json.loads(json.dumps(result.report["options"]))["zero"] == "group"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"zero": 1.0, "levels": "free"}, "zero: expected no value with levels free"),
        ({"zero": 8.0, "offset": True}, "zero: expected no value with an offset"),
        ({"zero": 7.25}, "zero: expected a multiple of 0.5 from 0 to 15"),
        ({"zero": 4.0, "planes": 2}, "zero: expected a multiple of 0.5 from 0 to 3"),
        ({"zero": "row"}, "zero: expected group or at least 0, got row"),
        ({"planes": "all"}, "planes: expected auto or 1 to 8, got all"),
        ({"group_size": 16}, "group_size: expected a positive multiple of 32, or 16 with levels even"),
        ({"group_size": 48, "levels": "even"}, "group_size: expected a positive multiple of 32"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(DualBinaryError) as error:
        ExportOptions(**options)
    assert message in str(error.value)
