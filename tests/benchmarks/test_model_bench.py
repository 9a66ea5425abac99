"""The whole-model benchmark: its arithmetic, its files, what it says of absent peers, and one real round."""

import json
from argparse import Namespace
from pathlib import Path

import gguf
import numpy as np
import onnx
import onnxruntime
import pytest
from safetensors.numpy import load_file

from benchmarks.models import bench as model_bench
from benchmarks.models import engine as model_engine
from benchmarks.models import variants as model_variants
from benchmarks.models.floor import Floor
from benchmarks.models.gguf_write import write_gguf
from benchmarks.models.variants import CUDA_VARIANTS, VARIANTS
from dualbinary import DualBinaryError
from examples.reference import export_reference
from tests.support import tiny_sessions as tiny

OURS, PEER = VARIANTS[0].name, "llama.cpp Q4_0"


def values(token, prompt):
    """The measurements of one round."""
    memory = {"bare_bytes": 1, "loaded_bytes": 2, "peak_bytes": 3}
    return {"load_seconds": 0.1, "token_seconds": token, "prompt_seconds": {"128": prompt}, **memory}


def record(variant, count, token, prompt):
    facts = {"model": "m", "threads": 2, "variant": variant, "round": count, "file_bytes": 10, "other_cores": 0.5}
    return {**facts, **values(token, prompt)}


def test_speeds_are_medians_and_ratios_are_over_the_rounds_that_both_have():
    rounds = [(OURS, 0, 0.1, 1.0), (PEER, 0, 0.2, 4.0), (PEER, 1, 0.3, 2.0), (OURS, 1, 0.1, 1.0), (PEER, 2, 9.0, 9.0)]
    ours, peer = model_bench.results({"records": [record(*each) for each in rounds]})
    assert (ours["variant"], ours["rounds"], peer["rounds"]) == (OURS, 2, 3)
    assert ours["decode_tokens_per_second"] == pytest.approx(10)
    assert ours["of_floor"] is None  # as in a file from before it was measured
    assert ours["prompt_tokens_per_second"] == {"128": pytest.approx(128)}
    assert peer["decode_tokens_per_second"] == pytest.approx(1 / 0.3)
    # Round 2 has no time of our engine.
    assert peer["slower_than_ours"]["token"]["median"] == pytest.approx(2.5)
    assert peer["slower_than_ours"]["128"]["median"] == pytest.approx(3)
    lines = list(model_bench.table([ours, peer]))
    assert len({line.count("|") for line in lines}) == 1


def test_peers_are_looked_for_where_make_installs_them():
    environment, repository = model_variants.PEERS_PYTHON.parents[1], model_variants.PEERS_PYTHON.parents[2]
    assert f"\nPEERS := {environment.name}\n" in (repository / "Makefile").read_text()


def test_a_peer_that_is_not_installed_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(model_variants, "PEERS_PYTHON", tmp_path / "python")
    arguments = ["--models", "smollm2", "--variants", "llama.cpp", "genai", "--work", str(tmp_path), "--json"]
    assert model_bench.main(arguments) == 0
    missing = json.loads(capsys.readouterr().out)["missing"]
    assert set(missing) == {
        "smollm2, llama.cpp Q4_0",
        "smollm2, llama.cpp Q4_0, plain",
        "smollm2, genai int4",
    }
    assert all("make bench-peers" in reason for reason in missing.values())


def test_a_variant_that_fails_has_one_turn_and_the_others_continue(tmp_path, monkeypatch, capsys):
    turns = []

    def measured(_path, variant, *_):
        turns.append(variant.name)
        if variant.name == OURS:
            raise DualBinaryError("no")
        return values(0.1, 1.0)

    monkeypatch.setattr(model_bench, "make_file", lambda *_: tmp_path / "model.onnx")
    monkeypatch.setattr(model_bench, "measure_round", measured)
    monkeypatch.setattr(model_bench, "measured_floor", lambda *_: Floor(weight_bytes=200, read_bytes_per_second=4000))
    arguments = ["--models", "smollm2", "--variants", "2 bits", "--rounds", "2", "--pause", "0", "--json"]
    assert model_bench.main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["missing"] == {f"smollm2, {OURS}": "no"}
    assert turns == [OURS, VARIANTS[1].name, VARIANTS[1].name]
    assert [row["of_floor"] for row in found["results"]] == [pytest.approx(2)]  # 0.1 s, and 0.05 for the read


def test_ratios_on_cuda_are_against_the_first_variant_there():
    ours, half = CUDA_VARIANTS[0].name, "float16 ONNX"
    rounds = [record(ours, 0, 0.1, 1.0), record(half, 0, 0.3, 2.0)]
    found = model_bench.results({"settings": {"provider": "cuda"}, "records": rounds})
    assert found[1]["slower_than_ours"]["token"]["median"] == pytest.approx(3)


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="CUDA is there")
def test_a_round_on_cuda_without_it_says_what_is_missing(weights, tmp_path):
    path = tiny.make_model(weights, tmp_path)
    with pytest.raises(DualBinaryError, match="onnxruntime-gpu"):
        model_variants.measure_round(path, CUDA_VARIANTS[0], 1, [8], 4)


def test_the_reference_for_cuda_is_in_float16(weights, tmp_path):
    path = export_reference(weights, tmp_path / "out", "cuda")
    model = onnx.load(path, load_external_data=False)
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    assert types["past_key_values.0.key"] == onnx.TensorProto.FLOAT16
    assert "GroupQueryAttention" in {node.op_type for node in model.graph.node}


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return tiny.make_weights(tmp_path_factory.mktemp("weights"))


def test_a_round_of_our_engine(weights, tmp_path):
    path = tiny.make_model(weights, tmp_path)
    arguments = Namespace(engine="dualbinary", file=path, threads=1, prompts=[8, 16], tokens=4, options="{}")
    found = model_engine.measure(arguments)
    assert set(found["prompt_seconds"]) == {"8", "16"}
    assert found["token_seconds"] > 0
    assert found["peak_bytes"] >= found["loaded_bytes"] >= found["bare_bytes"] > 0


def test_a_gguf_file_has_every_tensor_with_heads_in_llama_cpp_order(weights, tmp_path):
    write_gguf(weights, tmp_path / "model.gguf")
    stored = load_file(weights / "model.safetensors")
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    assert len(tensors) == len(stored)
    up = stored["model.layers.1.mlp.up_proj.weight"].astype(np.float16)
    np.testing.assert_array_equal(tensors["blk.1.ffn_up.weight"], up)
    # Rows 2i and 2i + 1 of a head of llama.cpp rotate together; Hugging Face has them half a head, here 8, apart.
    key = stored["model.layers.0.self_attn.k_proj.weight"].astype(np.float16).reshape(2, 16, 64)
    expected = np.stack([key[:, :8], key[:, 8:]], axis=2).reshape(32, 64)
    np.testing.assert_array_equal(tensors["blk.0.attn_k.weight"], expected)
