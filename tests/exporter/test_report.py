"""export_report.json says what is in the file."""

import json

import onnx
import pytest
from safetensors.torch import load_file, save_file

from dualbinary import OP
from exporter.options import ExportOptions
from exporter.pipeline import export

CASES = {
    "dualbinary": {},
    "dualbinary, not fused": {"fuse": "none"},
    "dualbinary, no function": {"fallback": "none"},
    "matmulnbits": {"op": "matmulnbits"},
    "dequantizelinear": {"op": "dequantizelinear"},
    "dequantizelinear, two bits": {"op": "dequantizelinear", "planes": 2},
    "transformers.js": {"layout_for": "transformersjs"},
}


@pytest.mark.parametrize("case", CASES)
def test_operator_and_nodes_are_those_of_the_file(pristine_model, tmp_path, case):
    options = ExportOptions(**{"planes": 4, "levels": "even"} | CASES[case])
    out = export(pristine_model("llama"), tmp_path / "model.onnx", options).path
    report = json.loads((tmp_path / "export_report.json").read_text())
    model = onnx.load(out, load_external_data=False)
    assert report["totals"]["nodes"] == len(model.graph.node)

    name, _, version = report["op"].rpartition("-")
    domain, _, operator = name.partition("::")
    versions = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    assert versions[domain] == int(version)
    # Weights of other formats are multiplied in domains beside the operator's own.
    domains = {OP.domain: OP.domain_names, "ai.onnx": ("",)}.get(domain, (domain,))
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    assert any(node.op_type == operator and node.domain in domains for node in nodes)


@pytest.mark.parametrize("scale_bits", [8, 16, 32])
def test_layers_whose_scales_become_zero_are_said(tiny_model, tmp_path, scale_bits):
    directory = tiny_model("llama")
    tensors = load_file(directory / "model.safetensors")
    tensors["model.layers.1.self_attn.o_proj.weight"] *= 1e-8
    tensors["model.layers.0.self_attn.o_proj.weight"] *= 0  # nothing is lost of zeros
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})

    options = ExportOptions(planes=4, levels="even", scale_bits=scale_bits)
    warnings = export(directory, tmp_path / "out" / "model.onnx", options).warnings

    said = [line for line in warnings if "--scale-bits 32" in line]
    assert len(said) == (scale_bits != 32)
    assert all(line.startswith("model.layers.1.self_attn.o_proj: ") for line in said)
