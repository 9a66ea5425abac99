"""Checkpoints whose weights multiply rotated inputs: exports compute what the weights do that are turned back."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from dualbinary import HADAMARD, InputError
from dualbinary.checkpoint import rotation_signs_name
from dualbinary.contract.weight import PlaneFormat
from dualbinary.onnx_files.relayout.convert import relayout
from exporter.options import ExportOptions
from exporter.pipeline import export
from exporter.verify import check
from tests.support.quantized_checkpoints import quantize
from tests.support.sessions import logits

FORM = PlaneFormat(2, 32, levels="even", zero=1)
IDS = np.array([[5, 9, 40, 3, 77, 21, 200, 8]])
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# Relative to the largest logit. A product of the library loses up to 1e-4 (the contract's 15 bits), which adds up like
# the square root of the number of products, 4e-4 for 14 and a head, and what norms and activations make of it; the
# fallback function and the transforms, in float32, lose a hundredth of that.
TOLERANCE = 1e-3


def modules(*leaves):
    names = [f"model.layers.{layer}.{leaf}" for layer in (0, 1) for leaf in LINEARS]
    return [f"model.layers.{layer}.{part}.{leaf}" for layer in (0, 1) for part, leaf in leaves] if leaves else names


ATTENTION = [("self_attn", leaf) for leaf in LINEARS[:4]]
MLP = [("mlp", leaf) for leaf in LINEARS[4:]]
BLOCKS = dict.fromkeys(modules(*ATTENTION, ("mlp", "gate_proj"), ("mlp", "up_proj")), 64) | dict.fromkeys(
    modules(("mlp", "down_proj")), 32
)
TABLES = {"llama": ("model.embed_tokens", "lm_head"), "llama_tied": ("model.embed_tokens",)}


def checkpoint_of(model_dir: Path, path: Path, block_sizes=BLOCKS, **options):
    """A checkpoint, and the plain model directory that it stands for."""
    weights = quantize(model_dir, path, form=FORM, block_sizes=block_sizes, **options)
    plain = path.with_name(f"{path.name}-plain")
    plain.mkdir()
    tensors = load_file(model_dir / "model.safetensors")
    for module, weight in weights.items():
        tensors[f"{module}.weight"] = torch.from_numpy(weight.astype(np.float32))
    save_file(tensors, plain / "model.safetensors", metadata={"format": "pt"})
    (plain / "config.json").write_text((model_dir / "config.json").read_text())
    return plain


def expected(plain: Path) -> np.ndarray:
    model = transformers.AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32).eval()
    with torch.inference_mode():
        return model(torch.from_numpy(IDS)).logits.numpy()


def nodes_of(out: Path, inverse: int | None = None) -> list[onnx.NodeProto]:
    nodes = [node for node in onnx.load(out, load_external_data=False).graph.node if node.op_type == HADAMARD.name]
    values = [{a.name: a.i for a in node.attribute}.get("inverse", 0) for node in nodes]
    return [node for node, value in zip(nodes, values, strict=True) if inverse in (None, value)]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *(("llama", options) for options in ({}, {"op": "matmulnbits"}, {"fallback": "none"}, {"layout": "avx2"})),
        *(("llama_tied", options) for options in ({}, {"op": "matmulnbits"})),
        pytest.param("llama_tied", {"fallback": "none"}, marks=pytest.mark.slow),
        pytest.param("llama_tied", {"layout": "avx2"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_an_export_computes_what_the_plain_model_does(pristine_model, tmp_path, library, name, options):
    sizes = BLOCKS | dict.fromkeys(TABLES[name], 128)
    tables = dict.fromkeys(TABLES[name], FORM)
    plain = checkpoint_of(pristine_model(name), tmp_path / "c", sizes, tables=tables)
    out = tmp_path / "out" / "model.onnx"

    result = export(tmp_path / "c", out, ExportOptions(logits="all", **options))

    wanted = expected(plain)
    stored_tables = "op" not in options  # tables of 2 bits become blocks of 8 with float16 scales otherwise
    tolerance = TOLERANCE if stored_tables else 2e-2
    for with_library in (True, False):
        if with_library or "fallback" not in options:
            found = logits(out, IDS, with_library)
            np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())
    assert check(result, out, library).passed
    assert {row["rotation"] for row in result.report["layers"]} == {32, 64}
    assert [row["rotation"] for row in result.report["tables"]] == [128] * len(TABLES[name])
    assert result.report["totals"]["rotated_layers"] == 14
    assert result.report["totals"]["sign_bytes"] == 128 + 160


def test_layers_with_the_same_input_share_a_node(pristine_model, tmp_path):
    own = PlaneFormat(3, 32, levels="even", zero=3)
    quantize(
        pristine_model("llama"),
        tmp_path / "c",
        form=FORM,
        block_sizes=BLOCKS,
        overrides={"model.layers.0.self_attn.v_proj": own},  # so that the layer's three are two products
    )
    out = tmp_path / "out" / "model.onnx"
    result = export(tmp_path / "c", out, ExportOptions())
    assert len(nodes_of(out)) == 2 * 4  # q k v, o, gate up, down
    assert len(result.graph.nodes) == 2 * 4 + 1
    readers = Counter(
        name for node in onnx.load(out, load_external_data=False).graph.node for name in node.input if "rotated" in name
    )
    assert sorted(readers.values()) == [1] * 7 + [2]
    assert len({node.input[1] for node in nodes_of(out)}) == 2  # signs of 128 and of 160 inputs


def test_other_block_sizes_and_plain_layers_stay_apart(pristine_model, tmp_path, library):
    sizes = {"model.layers.0.self_attn.q_proj": 64, "model.layers.0.self_attn.k_proj": 32}
    plain = checkpoint_of(pristine_model("llama"), tmp_path / "c", sizes)
    out = tmp_path / "out" / "model.onnx"
    result = export(tmp_path / "c", out, ExportOptions(logits="all", embedding_bits=32))
    assert len(nodes_of(out)) == 2
    assert result.report["totals"]["rotated_layers"] == 2
    wanted = expected(plain)
    np.testing.assert_allclose(logits(out, IDS), wanted, rtol=0, atol=TOLERANCE * np.abs(wanted).max())
    assert check(result, out, library).passed


def test_a_checkpoint_without_its_rotation_is_another_model(pristine_model, tmp_path, library):
    """The check turns weights back itself, and so sees a graph that does not turn its inputs."""
    checkpoint_of(pristine_model("llama"), tmp_path / "c")
    out = tmp_path / "out" / "model.onnx"
    result = export(tmp_path / "c", out, ExportOptions())
    model = onnx.load(out)
    for node in model.graph.node:
        if node.op_type == HADAMARD.name:
            node.op_type, node.domain = "Identity", ""
            del node.attribute[:], node.input[1]
    del model.functions[:]
    onnx.save(model, out)
    assert check(result, out, library).relative_error > 0.1


def test_a_stored_table_that_is_made_anew_stays_rotated(pristine_model, tmp_path, library):
    tables = {"model.embed_tokens": FORM}
    plain = checkpoint_of(pristine_model("llama_tied"), tmp_path / "c", {"model.embed_tokens": 128}, tables=tables)
    wanted = expected(plain)
    for bits, tolerance in ((4, 0.2), (8, 2e-2), (16, TOLERANCE), (32, TOLERANCE)):
        out = tmp_path / str(bits) / "model.onnx"
        result = export(tmp_path / "c", out, ExportOptions(logits="all", embedding_bits=bits))
        np.testing.assert_allclose(logits(out, IDS), wanted, rtol=0, atol=tolerance * np.abs(wanted).max())
        assert (len(nodes_of(out, 0)), len(nodes_of(out, 1))) == (1, 1)
        assert check(result, out, library).passed


def test_relayout_keeps_rotations(pristine_model, tmp_path):
    checkpoint_of(pristine_model("llama"), tmp_path / "c")
    out, other = tmp_path / "out" / "model.onnx", tmp_path / "other" / "model.onnx"
    export(tmp_path / "c", out, ExportOptions())
    other.parent.mkdir()
    relayout(out, other, "avx2")
    np.testing.assert_array_equal(logits(out, IDS, library=False), logits(other, IDS, library=False))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda signs: signs[:-32], r"q_proj.rotation_signs: expected I8 \[128\], got I8 \[96\]"),
        (lambda signs: signs * 0, "q_proj.rotation_signs: signs: expected 1 or -1 for each input"),
        (lambda signs: signs.float(), r"q_proj.rotation_signs: expected I8 \[128\], got F32"),
        (lambda signs: None, r"q_proj.rotation_signs: missing; expected I8 \[128\]"),
    ],
    ids=["length", "value", "type", "missing"],
)
def test_damaged_signs_are_one_clear_error(pristine_model, tmp_path, change, message):
    checkpoint_of(pristine_model("llama"), tmp_path / "c")
    file = tmp_path / "c" / "model.safetensors"
    tensors = load_file(file)
    name = rotation_signs_name("model.layers.0.self_attn.q_proj")
    changed = change(tensors.pop(name))
    save_file(tensors | ({} if changed is None else {name: changed}), file, metadata={"format": "pt"})
    with pytest.raises(InputError, match=message):
        export(tmp_path / "c", tmp_path / "out" / "model.onnx", ExportOptions())


@pytest.mark.parametrize(
    ("rotation", "message"),
    [
        ({"block_size": 256}, "expected a power of two that divides its 128 inputs, got 256"),
        (None, "q_proj.rotation_signs: not expected; quantization_config gives model.layers.0.self_attn.q_proj no"),
    ],
    ids=["block", "none"],
)
def test_a_rotation_that_does_not_fit_its_layer_is_refused(pristine_model, tmp_path, rotation, message):
    checkpoint_of(pristine_model("llama"), tmp_path / "c")
    file = tmp_path / "c" / "config.json"
    config = json.loads(file.read_text())
    config["quantization_config"]["overrides"]["model.layers.0.self_attn.q_proj"]["rotation"] = rotation
    file.write_text(json.dumps(config))
    with pytest.raises(InputError, match=message):
        export(tmp_path / "c", tmp_path / "out" / "model.onnx", ExportOptions())


@pytest.mark.parametrize(
    "options", [{"target": "cuda"}, {"dtype": "fp16"}, {"dtype": "fp16", "op": "matmulnbits"}], ids=str
)
def test_float16_activations_are_rotated_too(pristine_model, tmp_path, library, options):
    sizes = BLOCKS | dict.fromkeys(TABLES["llama"], 128)
    checkpoint_of(pristine_model("llama"), tmp_path / "c", sizes, tables=dict.fromkeys(TABLES["llama"], FORM))
    out = tmp_path / "out" / "model.onnx"
    result = export(tmp_path / "c", out, ExportOptions(**options))
    assert check(result, out, None if options.get("target") else library).passed
