"""Tables of the rotation: computed from frequencies, equal to transformers' at every position, ended where asked."""

import json

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
import transformers

from dualbinary import InputError
from dualbinary.errors import OptionError
from exporter.graph.passes import rotation_tables
from exporter.graph.passes.rotation_tables import TOLERANCE, RotationTablesPass
from exporter.graph.values import constant
from runtime_ext.decoder import Decoder
from tests.support.sessions import logits
from tests.support.tiny_models import edit_config

CONTEXT = 32768
WIDTH = 16  # frequencies of the tiny Llama


def tables(path) -> dict[str, np.ndarray]:
    """The outputs of all Cos and Sin nodes of a model file that depend on nothing but constants, by operator."""
    graph = onnx.load(path).graph
    known, kept, outputs = {value.name for value in graph.initializer}, [], {}
    for node in graph.node:
        if node.input and known.issuperset(name for name in node.input if name):
            known.update(node.output)
            kept.append(node)
            outputs |= {node.op_type: node.output[0]} if node.op_type in ("Cos", "Sin") else {}
    results = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs.values()]
    used = {name for node in kept for name in node.input}
    model = onnx.helper.make_model(
        onnx.helper.make_graph(kept, "tables", [], results, [v for v in graph.initializer if v.name in used]),
        opset_imports=[onnx.helper.make_opsetid("", 23)],
        ir_version=10,
    )
    found = ort.InferenceSession(model.SerializeToString()).run(list(outputs.values()), {})
    return {name: np.asarray(table) for name, table in zip(outputs, found, strict=True)}


def pair(*parts: np.ndarray, scale: float = 1.0) -> ir.Model:
    """A graph that gathers from a table of cosines and one of sines of `parts`, frequencies float32, one after another.

    Every part has 500 positions.
    """
    position_ids = ir.val("position_ids", ir.DataType.INT64, ["batch", "tokens"])
    model = ir.Model(ir.Graph([position_ids], [], nodes=[], opset_imports={"": 23}, name="g"), ir_version=10)
    angles = np.concatenate([np.arange(500, dtype=np.float32)[:, None] * part for part in parts])
    for name, function in (("cos", np.cos), ("sin", np.sin)):
        table = constant(model, f"{name}_cache", function(angles) * np.float32(scale))
        node = ir.node("Gather", [table, position_ids], name=name)
        node.outputs[0].name, node.outputs[0].type = name, ir.TensorType(ir.DataType.FLOAT)
        model.graph.append(node)
        model.graph.outputs.append(node.outputs[0])
    return model


def values(model: ir.Model, name: str) -> np.ndarray:
    """The values of a table, which may be changed."""
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()


def gathered(model: ir.Model, positions: np.ndarray) -> list[np.ndarray]:
    data = ir.to_proto(model).SerializeToString()
    return [
        np.asarray(found) for found in ort.InferenceSession(data).run(["cos", "sin"], {"position_ids": positions[None]})
    ]


FREQUENCIES = (1 / 10000 ** (np.arange(32, dtype=np.float32) / 32)).astype(np.float32)


def test_tables_are_those_of_transformers_and_not_in_the_file(tiny_model, fitted):
    directory = tiny_model("llama")
    edit_config(directory, max_position_embeddings=CONTEXT)
    result, out = fitted(directory)
    assert result.graph.positions == CONTEXT
    assert out.with_name(f"{out.name}.data").stat().st_size < CONTEXT * WIDTH * 4
    found = tables(out)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory)
    wanted = model.model.rotary_emb(torch.zeros(1), torch.arange(CONTEXT)[None])
    # The frequencies of two libraries differ by a unit in the last place, and an angle by as much of itself.
    angles = np.arange(CONTEXT)[:, None] * model.model.rotary_emb.inv_freq.numpy()
    for name, values in zip(("Cos", "Sin"), wanted, strict=True):
        assert np.all(np.abs(found[name] - values[0, :, :WIDTH].numpy()) <= 2**-23 * angles + TOLERANCE)


@pytest.mark.parametrize("scale", [1.0, 1.19])
@pytest.mark.parametrize("parts", [[FREQUENCIES], [FREQUENCIES, FREQUENCIES / 8], [np.zeros(8, np.float32)]])
def test_values_are_found_again(parts, scale):
    positions = np.arange(500 * len(parts))
    model = pair(*parts, scale=scale)
    before = gathered(model, positions)
    RotationTablesPass(None)(model)
    assert {"Cos", "Sin"} <= {node.op_type for node in model.graph}
    assert not {"cos_cache", "sin_cache"} & model.graph.initializers.keys()
    for found, wanted in zip(gathered(model, positions), before, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=scale * TOLERANCE)


def test_other_values_stay():
    model = pair(FREQUENCIES)
    table = values(model, "cos_cache")
    table[400, 3] += 1e-5
    RotationTablesPass(None)(model)
    assert {node.op_type for node in model.graph} == {"Gather"}
    assert gathered(model, np.arange(500))[0][0, 400, 3] == table[400, 3]


def test_angles_that_are_no_product_stay_and_are_cut_where_asked():
    model = pair(FREQUENCIES)
    angles = np.sqrt(np.arange(500, dtype=np.float32))[:, None] * FREQUENCIES
    for name, function in (("cos_cache", np.cos), ("sin_cache", np.sin)):
        values(model, name)[:] = function(angles)
    tables_pass = RotationTablesPass(300)
    tables_pass(model)
    assert tables_pass.length == 300
    assert [node.op_type for node in model.graph] == ["Gather", "Gather"]
    np.testing.assert_array_equal(gathered(model, np.arange(300))[0][0], np.cos(angles)[:300])
    with pytest.raises(Exception, match="out of data bounds"):
        gathered(model, np.array([300]))


@pytest.mark.parametrize("name", ["llama", "gpt_neox"])  # tables inside attention, and gathered
def test_a_length_that_is_asked_for_ends_tables_and_context(pristine_model, fitted, name):
    result, out = fitted(pristine_model(name), max_length=64)
    assert result.graph.positions == 64
    config = json.loads((out.parent / "genai_config.json").read_text())
    assert (config["model"]["context_length"], config["search"]["max_length"]) == (64, 64)
    decoder = Decoder.load(out)
    decoder.start(64)
    with pytest.raises(InputError, match="do not fit the context of 64"):
        decoder.start(65)
    with pytest.raises(Exception, match=r"at most 64, the rows of cos_table|out of data bounds"):
        logits(out, np.ones((1, 65), np.int64))


def test_a_context_whose_tables_would_fill_memory_is_cut_with_a_word(tiny_model, fitted, monkeypatch):
    directory = tiny_model("llama")
    longest = 4096
    monkeypatch.setattr(rotation_tables, "DEFAULT_BYTES", 2 * WIDTH * 4 * longest)
    edit_config(directory, max_position_embeddings=2 * longest)
    result, out = fitted(directory)
    assert result.graph.positions == longest
    assert any(f"--max-length {2 * longest}" in line for line in result.warnings)
    assert json.loads((out.parent / "genai_config.json").read_text())["model"]["context_length"] == longest
    result, _ = fitted(directory, max_length=2 * longest)
    assert result.graph.positions == 2 * longest


@pytest.mark.parametrize("scaling", [{"rope_type": "dynamic", "factor": 4.0}, {"type": "dynamic", "factor": 2.0}])
def test_dynamic_rotations_are_plain_within_the_context_with_a_word(tiny_model, fitted, scaling):
    model_dir, found = tiny_model("llama"), []
    for values in (None, scaling):
        edit_config(model_dir, rope_parameters=None, rope_theta=10000.0, rope_scaling=values)
        result, out = fitted(model_dir)
        found.append((tables(out), json.loads((out.parent / "genai_config.json").read_text()), result.warnings))

    plain, dynamic = found
    for name, table in plain[0].items():
        np.testing.assert_array_equal(dynamic[0][name], table)
    assert plain[1] == dynamic[1]
    assert [line for line in dynamic[2] if line not in plain[2]] == [
        "made for 128 tokens, the context, up to which rope_type dynamic changes nothing; longer sequences, whose "
        "positions transformers rotates by their length, are not run"
    ]
    assert result.graph.positions == 128
    with pytest.raises(InputError, match="do not fit the context of 128"):
        Decoder.load(out).start(129)


def test_a_dynamic_rotation_with_a_fixed_base_needs_no_word(tiny_model, fitted):
    directory = tiny_model("hunyuan_v1_dense")
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 1.0, "alpha": 1000.0}
    edit_config(directory, rope_parameters=rope)
    result, _ = fitted(directory)
    assert not any("rope_type" in line for line in result.warnings)


def test_more_than_the_context_is_refused(pristine_model, fitted):
    with pytest.raises(OptionError, match="at most 128"):
        fitted(pristine_model("llama"), max_length=129)
