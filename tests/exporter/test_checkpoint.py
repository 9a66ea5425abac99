"""Checkpoints of ours are exported as they are stored, whatever the graph does to the modules."""

import json

import numpy as np
import onnx_ir as ir
import pytest
import torch
from safetensors.torch import load_file, save_file

from dualbinary import InputError, dequantize, padded_k
from dualbinary.checkpoint import PER_CHANNEL, planes_name
from exporter.options import ExportOptions
from exporter.pipeline import export
from exporter.verify import check
from tests.support.quantized_checkpoints import quantize

SKIPPED = "model.layers.1.mlp.down_proj"


# Separate projections; fused and split by the graph; transposed and fused; interleaved by head and fused.
@pytest.mark.parametrize("name", ["llama", "phi3", "gpt2", "bloom"])
def test_planes_follow_their_rows(pristine_model, tmp_path, library, name):
    modules = quantize(pristine_model(name), tmp_path / "checkpoint")
    out = tmp_path / "out" / "model.onnx"

    result = export(tmp_path / "checkpoint", out, ExportOptions())

    assert sum(len(node.linears) for node in result.nodes) >= len(modules)
    assert check(result, out, library).passed


def test_modules_to_not_convert_stay_in_full_precision(pristine_model, tmp_path, library):
    quantize(pristine_model("llama"), tmp_path / "checkpoint", skip=(SKIPPED,))
    out = tmp_path / "out" / "model.onnx"

    result = export(tmp_path / "checkpoint", out, ExportOptions())

    assert SKIPPED not in [linear.module for node in result.nodes for linear in node.linears]
    assert check(result, out, library).passed


def test_stored_format_decides_and_options_may_not_contradict(pristine_model, tmp_path):
    quantize(pristine_model("llama"), tmp_path / "checkpoint", planes=3, has_offset=False, group_size=64)

    with pytest.raises(InputError, match=r"planes=3, group_size=64.*leave out --planes"):
        export(tmp_path / "checkpoint", tmp_path / "out" / "model.onnx", ExportOptions(planes=2))
    result = export(tmp_path / "checkpoint", tmp_path / "out" / "model.onnx", ExportOptions())
    assert {(n.format.planes, n.format.scale_rows, n.format.group_size) for n in result.nodes} == {(3, 3, 64)}


@pytest.mark.parametrize("with_library", [True, False])
@pytest.mark.parametrize("name", ["llama", "phi3", "gpt2"])
def test_a_group_a_row_is_each_nodes_own_row(pristine_model, tmp_path, library, name, with_library):
    quantize(pristine_model(name), tmp_path / "checkpoint", planes=3, group_size=PER_CHANNEL)
    out = tmp_path / "out" / "model.onnx"

    result = export(tmp_path / "checkpoint", out, ExportOptions())

    for node in result.nodes:
        assert node.format.group_size == padded_k(node.linears[0].K, 32)
    assert len({node.format.group_size for node in result.nodes}) > 1
    assert result.report["options"]["group_size"] == PER_CHANNEL
    assert check(result, out, library if with_library else None).passed


def test_the_report_counts_additions_and_multiplications(pristine_model, tmp_path):
    quantize(pristine_model("llama"), tmp_path / "checkpoint", planes=3, group_size=64)
    result = export(tmp_path / "checkpoint", tmp_path / "out" / "model.onnx", ExportOptions())
    total = dict.fromkeys(result.report["totals"]["operations_per_token"], 0)
    for row in result.report["layers"]:
        N, K, counts = row["N"], row["K"], row["operations_per_token"]
        groups = -(-K // 64)
        assert counts["dense_multiplications"] == counts["dense_additions"] == N * K
        assert counts["multiplications"] == 4 * N * groups
        assert counts["additions"] == 3 * N * K + 4 * N * groups + K
        assert counts["additions"] - counts["set_additions"] == round(3 * N * K - N * K * sum(row["density"]))
        total = {name: value + counts[name] for name, value in total.items()}
    assert result.report["totals"]["operations_per_token"] == total


def test_float32_scales_stay_float32(pristine_model, tmp_path, library):
    quantize(pristine_model("llama"), tmp_path / "checkpoint", scale_dtype=np.float32)
    out = tmp_path / "out" / "model.onnx"

    result = export(tmp_path / "checkpoint", out, ExportOptions())

    assert {str(node.scales.dtype) for node in result.nodes} == {"FLOAT"}
    assert check(result, out, library).passed


@pytest.mark.parametrize("scale_dtype", [np.float16, np.float32])
@pytest.mark.parametrize("with_library", [True, False])
def test_scales_of_8_bits_are_what_the_file_holds_and_the_report_says_what_they_cost(
    pristine_model, tmp_path, library, scale_dtype, with_library
):
    modules = quantize(pristine_model("llama"), tmp_path / "checkpoint", scale_dtype=scale_dtype)
    out = tmp_path / "out" / "model.onnx"

    result = export(tmp_path / "checkpoint", out, ExportOptions(scale_bits=8))

    assert check(result, out, library if with_library else None).passed
    assert result.report["options"]["scale_bits"] == 8
    assert any("scales of the checkpoint rounded to 8 bits" in line for line in result.warnings)
    node = next(node for node in result.nodes if len(node.linears) == 1)
    module, K = node.linears[0].module, node.linears[0].K
    held = dequantize(stored_array(out, node.planes), stored_array(out, node.scales), K, node.format.group_size)
    error = np.square(held - modules[module]).sum() / np.square(modules[module]).sum()
    row = next(row for row in result.report["layers"] if row["module"] == module)
    assert 0 < row["scale_rounding_error"] < 1e-4
    assert row["scale_rounding_error"] == pytest.approx(error, rel=1e-6)
    assert row["bits_per_weight"] == 2 + 3 * 8 / 32 + 3 * 16 / K
    assert row["relative_squared_error"] is None  # the weight that was trained is not known


def stored_array(out, value):
    tensor = ir.load(out).graph.initializers[str(value.name)].const_value
    assert tensor is not None
    return tensor.numpy()


def test_scales_as_stored_have_no_rounding_error(pristine_model, tmp_path):
    quantize(pristine_model("llama"), tmp_path / "checkpoint")

    report = export(tmp_path / "checkpoint", tmp_path / "out" / "model.onnx", ExportOptions()).report

    assert report["options"]["scale_bits"] == 16
    assert report["totals"]["scale_rounding_error"] is None
    assert {row["scale_rounding_error"] for row in report["layers"]} == {None}


def test_scale_beyond_8_bits_is_refused_by_module(pristine_model, tmp_path):
    quantize(pristine_model("llama"), tmp_path / "checkpoint", scale_dtype=np.float32)
    path = tmp_path / "checkpoint" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.down_proj.scales"][1, 5, 0] = 1e5
    save_file(tensors, path)

    with pytest.raises(InputError, match=r"model\.layers\.1\.mlp\.down_proj: row 5 needs a scale of 100000"):
        export(tmp_path / "checkpoint", tmp_path / "out" / "model.onnx", ExportOptions(scale_bits=8))


def test_another_method_is_refused(tiny_model, tmp_path):
    model_dir = tiny_model("llama")
    config = json.loads((model_dir / "config.json").read_text())
    (model_dir / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))

    with pytest.raises(InputError, match="gptq"):
        export(model_dir, tmp_path / "out" / "model.onnx", ExportOptions())


def test_checkpoint_shapes_are_held_against_the_model(pristine_model, tmp_path):
    modules = quantize(pristine_model("llama"), tmp_path / "checkpoint")
    path = tmp_path / "checkpoint" / "model.safetensors"
    tensors = load_file(path)
    name = planes_name(next(iter(modules)))
    tensors[name] = tensors[name][:, :-1].contiguous()
    save_file(tensors, path)

    with pytest.raises(InputError, match=f"{name}: expected U8"):
        export(tmp_path / "checkpoint", tmp_path / "out" / "model.onnx", ExportOptions())


def test_bfloat16_and_shards_give_the_same_file(tmp_path):
    from tests.support.tiny_models import make_model

    data = []
    for shards in (1, 4):
        model_dir = make_model("llama", tmp_path / f"model{shards}", shards=shards, dtype=torch.bfloat16)
        assert (shards > 1) == (model_dir / "model.safetensors.index.json").exists()
        out = tmp_path / f"out{shards}" / "model.onnx"
        export(model_dir, out, ExportOptions())
        data.append((out.parent / "model.onnx.data").read_bytes())

    assert data[0] == data[1]
