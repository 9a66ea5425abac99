"""The profile of a token: what it adds up to, and what it refuses."""

import json

import gguf
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from benchmarks.models import profile as model_profile
from benchmarks.models.floor import token_bytes
from exporter.options import ExportOptions
from exporter.pipeline import export


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from tests.support import tiny_sessions as tiny

    directory = tmp_path_factory.mktemp("profile")
    source = tiny.make_weights(directory / "hf")
    out = directory / "out" / "model.onnx"
    export(source, out, ExportOptions())
    return out


def test_kernels_and_what_lies_between_add_up_to_the_run(model, capsys):
    arguments = [str(model), "--prompt-length", "8", "--tokens", "4", "--threads", "1", "--json"]
    assert model_profile.main(arguments) == 0

    result = json.loads(capsys.readouterr().out)
    for phase in (result["prompt"], result["token"]):
        nodes = {each["operator"]: each["nodes"] for each in phase["operators"]}
        names = ("DualBinaryAttention", "DualBinaryMlp", "DualBinaryMatMul")  # of two layers, and the head
        assert [nodes[name] for name in names] == [2, 2, 1]
        kernels = sum(each["microseconds"] for each in phase["operators"])
        # Medians of parts and of the whole are not of the same run, so that they add up only roughly.
        assert 0 < kernels < 2 * phase["profiled"]
    assert result["floor_seconds"] == pytest.approx(result["weight_bytes"] / result["read_bytes_per_second"])
    assert result["of_floor"] == pytest.approx(result["token"]["seen"] / 1e6 / result["floor_seconds"])


def test_a_table_that_is_looked_up_does_not_count(tmp_path):
    tensors = [helper.make_tensor(name, TensorProto.FLOAT, [4, 2], [0.0] * 8) for name in ("looked_up", "whole")]
    nodes = [
        helper.make_node("Gather", ["looked_up", "ids"], ["rows"]),
        helper.make_node("MatMul", ["rows", "whole"], ["y"]),
    ]
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [ids], [y], tensors)), path)

    whole = next(tensor for tensor in onnx.load(path).graph.initializer if tensor.name == "whole")
    assert token_bytes(path) == whole.ByteSize()


@pytest.mark.parametrize("tied", [True, False])
def test_the_embedding_of_a_gguf_file_counts_where_it_is_the_head(tied, tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    names = ["token_embd.weight", "blk.0.ffn_up.weight", *([] if tied else ["output.weight"])]
    table = np.zeros((8, 4), np.float32)
    for name in names:
        writer.add_tensor(name, table)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert token_bytes(tmp_path / "m.gguf") == 2 * table.nbytes


def test_prompts_that_take_several_runs_are_refused(model, capsys):
    assert model_profile.main([str(model), "--prompt-length", "100000"]) == 2
    assert "--prompt-length" in capsys.readouterr().err
