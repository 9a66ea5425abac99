"""Checkpoints in which modules have formats of their own."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from safetensors.numpy import load_file

from dualbinary import InputError
from dualbinary.checkpoint import PER_CHANNEL
from dualbinary.contract.scale_codes import BFLOAT16
from dualbinary.contract.weight import EACH_GROUP, PlaneFormat
from exporter.__main__ import main
from exporter.options import ExportOptions
from exporter.pipeline import export
from exporter.verify import check
from exporter.verify.dequantized import write_dequantized
from tests.support.quantized_checkpoints import quantize

DEFAULT = PlaneFormat(2, 64, True)
UNEVEN = tuple(f"model.layers.{i}.mlp.down_proj" for i in (0, 1))  # rows that 128 does not divide


def even(planes, group_size, **values):
    return PlaneFormat(planes, group_size, levels="even", **values)


FIRST = {
    f"model.layers.0.{module}": form
    for module, form in {
        "self_attn.q_proj": even(2, PER_CHANNEL, zero=1, per_tensor=True),
        "self_attn.k_proj": even(2, PER_CHANNEL, zero=1, per_tensor=True),
        "self_attn.v_proj": even(4, 32, zero=EACH_GROUP),
        "self_attn.o_proj": even(4, PER_CHANNEL, zero=7.5, per_tensor=True, scale_dtype=np.dtype(np.float32)),
        "mlp.gate_proj": even(3, 16, offset=True),
        "mlp.up_proj": even(4, 128, zero=8, scale_dtype=BFLOAT16),
        "mlp.down_proj": even(8, 32, zero=128, scale_dtype=np.dtype(np.uint8)),
    }.items()
}
MIXED = {**FIRST, "model.layers.1.mlp.up_proj": PlaneFormat(3, 32, False)}


def exported(tmp_path, **options):
    out = tmp_path / "out" / "model.onnx"
    return export(tmp_path / "checkpoint", out, ExportOptions(fallback="none", **options)), out


def dequantized(result, out, tmp_path):
    """All tensors of the model that the file stands for."""
    directory = tmp_path / "dense"
    directory.mkdir()
    write_dequantized(result, out, directory)
    return {name: array for file in directory.glob("*.safetensors") for name, array in load_file(file).items()}


def test_report_tells_true_bits(pristine_model, tmp_path):
    forms = {
        "self_attn.q_proj": (even(4, 128, zero=8), 4.125),
        "self_attn.k_proj": (even(4, 32, zero=8), 4.5),
        "self_attn.v_proj": (even(2, 128, zero=1), 2.125),
        "self_attn.o_proj": (even(1, 128, zero=0.5), 1.125),
        "mlp.up_proj": (even(8, 32, zero=128), 8.5),
        "mlp.gate_proj": (even(4, 16, zero=EACH_GROUP), 4 + 16 / 16 + 4 / 16),
    }
    overrides = {f"model.layers.0.{module}": form for module, (form, _) in forms.items()}
    quantize(pristine_model("llama"), tmp_path / "checkpoint", form=DEFAULT, overrides=overrides, skip=UNEVEN)

    result, _ = exported(tmp_path)

    rows = {row["module"]: row for row in result.report["layers"]}
    for module, (form, bits) in forms.items():
        row = rows[f"model.layers.0.{module}"]
        assert row["bits_per_weight"] == bits
        written = (form.planes, form.group_size, "even", form.zero, False, "float16")
        assert tuple(row[key] for key in ("planes", "group_size", "levels", "zero", "offset", "scale_type")) == written
    default = rows["model.layers.1.mlp.up_proj"]
    assert (default["planes"], default["levels"], default["zero"], default["offset"]) == (2, "free", None, True)
    totals = result.report["totals"]
    assert totals["bits_per_weight"] * totals["quantised_weights"] == pytest.approx(
        sum(row["bits_per_weight"] * row["weights"] for row in rows.values())
    )
    counts = result.report["formats"]
    assert counts["1 plane, G=128, even levels, zero 0.5, float16 scales"] == {
        "layers": 1,
        "weights": 128 * 128,
        "bits_per_weight": 1.125,
    }
    assert sum(count["layers"] for count in counts.values()) == len(rows)
    options = result.report["options"]
    assert (options["planes"], options["group_size"], options["offset"], options["scale_bits"]) == (2, 64, True, 16)


def test_command_counts_layers_by_format(pristine_model, tmp_path, capsys):
    quantize(pristine_model("llama"), tmp_path / "checkpoint", form=DEFAULT, overrides=MIXED)

    words = [str(tmp_path / "checkpoint"), str(tmp_path / "out" / "model.onnx"), "--fallback", "none", "--no-check"]
    assert main(words) == 0

    lines = capsys.readouterr().out.splitlines()
    assert "  6 layers, 90,112 weights of 2.875 bits: 2 planes, G=64, free levels, offset, float16 scales" in lines
    assert "  1 layers, 20,480 weights of 4.125 bits: 4 planes, G=128, even levels, zero 8, bfloat16 scales" in lines


@pytest.mark.parametrize("options", [{}, {"scale_bits": 32}, {"layout": "avx2"}], ids=str)
def test_every_module_keeps_its_weights(pristine_model, tmp_path, options):
    modules = quantize(pristine_model("llama"), tmp_path / "checkpoint", form=DEFAULT, overrides=MIXED)

    result, out = exported(tmp_path, **options)

    dense = dequantized(result, out, tmp_path)
    for module, weight in modules.items():
        np.testing.assert_array_equal(dense[f"{module}.weight"], weight.astype(np.float32), err_msg=module)


@pytest.mark.parametrize("options", [{}, {"scale_bits": 8, "dtype": "fp16"}, {"accuracy_level": 4}], ids=str)
def test_library_agrees_with_transformers_in_mixed_formats(pristine_model, tmp_path, library, options):
    quantize(pristine_model("llama"), tmp_path / "checkpoint", form=DEFAULT, overrides=MIXED)

    result, out = exported(tmp_path, **options)

    outcome = check(result, out, library)
    assert outcome.passed, outcome
    assert outcome.kernel == "library"


def test_layers_of_one_input_share_a_node_where_their_formats_agree(pristine_model, tmp_path):
    quantize(pristine_model("llama"), tmp_path / "checkpoint", form=DEFAULT, overrides=MIXED)

    result, out = exported(tmp_path)

    nodes = {str(node.name): node for node in ir.load(out).graph if node.op_type == "DualBinaryMatMul"}
    assert [name for name in nodes if ".0." in name] == [
        f"model.layers.0.{name}"
        for name in (
            "self_attn.q_proj_k_proj",
            "self_attn.v_proj",
            "self_attn.o_proj",
            "mlp.gate_proj",
            "mlp.up_proj",
            "mlp.down_proj",
        )
    ]
    attributes = {name: {key: value.value for key, value in node.attributes.items()} for name, node in nodes.items()}
    assert attributes["model.layers.0.self_attn.v_proj"]["twice_zero"] == -1
    assert attributes["model.layers.0.self_attn.o_proj"]["twice_zero"] == 15
    assert "levels" not in attributes["model.layers.1.mlp.up_proj"]
    held = {str(node.planes.name): node.scales for node in result.graph.nodes}
    joined, alone = (held[f"model.layers.0.self_attn.{name}.planes"] for name in ("q_proj_k_proj", "o_proj"))
    assert list(joined.shape or ()) == [1, 128 + 64, 1]  # an own step for each output
    assert list(alone.shape or ()) == [1, 1, 1]
    assert str(held["model.layers.0.mlp.up_proj.planes"].dtype) == "BFLOAT16"


def test_steps_are_rounded_to_8_bits_and_zero_points_are_not(pristine_model, tmp_path):
    modules = quantize(pristine_model("llama"), tmp_path / "checkpoint", form=DEFAULT, overrides=MIXED)

    result, out = exported(tmp_path, scale_bits=8)

    dense = dequantized(result, out, tmp_path)
    for row in result.report["layers"]:
        weight, held = modules[row["module"]], dense[f"{row['module']}.weight"]
        error = np.square(held - weight).sum() / np.square(weight).sum()
        assert row["scale_type"] == "uint8"
        if row["module"] == "model.layers.0.mlp.down_proj":
            assert row["scale_rounding_error"] is None  # stored in 8 bits
            np.testing.assert_array_equal(held, weight.astype(np.float32))
        else:
            assert row["scale_rounding_error"] == pytest.approx(error, rel=1e-3, abs=1e-12)
            assert error < 1e-4
        if row["levels"] == "even" and not row["offset"]:
            assert (held[weight == 0] == 0).all()


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("phi3", "model.layers.0.self_attn.qkv_proj"),
        ("bloom", "transformer.h.0.self_attention.query_key_value"),
        ("gpt2", "transformer.h.0.attn.c_attn"),
    ],
)
def test_fused_modules_keep_their_format_where_the_graph_splits_them(pristine_model, tmp_path, name, module):
    overrides = {module: even(3, PER_CHANNEL, zero=4, per_tensor=True)}
    modules = quantize(pristine_model(name), tmp_path / "checkpoint", form=DEFAULT, overrides=overrides)

    result, out = exported(tmp_path)

    dense = dequantized(result, out, tmp_path)[f"{module}.weight"]
    np.testing.assert_array_equal(dense.T if name == "gpt2" else dense, modules[module].astype(np.float32))
    assert [row["planes"] for row in result.report["layers"]].count(3) == 3


def test_planes_beyond_cuda_are_refused_by_module(pristine_model, tmp_path):
    module = "model.layers.1.mlp.up_proj"
    quantize(
        pristine_model("llama"), tmp_path / "checkpoint", form=DEFAULT, overrides={module: replace(DEFAULT, planes=5)}
    )

    with pytest.raises(InputError, match=rf"target: expected cpu .* of 5 planes in {module} \(CUDA takes 1 to 4\)"):
        exported(tmp_path, target="cuda")


def test_override_of_a_module_that_the_model_lacks_is_refused(pristine_model, tmp_path):
    overrides = {"model.layers.2.mlp.up_proj": replace(DEFAULT, planes=3)}
    quantize(pristine_model("llama"), tmp_path / "checkpoint", form=DEFAULT, overrides=overrides)

    message = r"overrides\.model\.layers\.2\.mlp\.up_proj: the model has no Linear module of that name"
    with pytest.raises(InputError, match=message):
        exported(tmp_path)
