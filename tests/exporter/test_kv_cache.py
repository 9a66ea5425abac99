"""`--kv-cache`: types of keys and values, what reads them, and which models have them."""

import json

import numpy as np
import onnx
import pytest

from dualbinary import ATTENTION, OP
from dualbinary.errors import OptionError
from dualbinary.onnx_files.relayout.convert import relayout
from exporter.__main__ import main
from exporter.options import ExportOptions
from exporter.pipeline import export
from exporter.verify import check
from runtime_ext.decoder import Decoder
from tests.support.quick_fit import QUICK
from tests.support.reference_model import ReferenceModel

# The reference's products are exact and those of the library keep 15 bits (2e-4 of the logits of these models, of
# float32 caches). So a number of an int8 row that lies within 2e-4 * 127 = 0.025 of a rounding boundary may be its
# neighbor: one number in 20, off by 1/127 of the row's largest, where all of them are off by 1/440 in the mean. That is
# 0.2 * 1/127 = 1.6e-3 of the row in the mean square; a half more than twice that is allowed. Float16: 2^-11 and 2e-4.
TOLERANCE = {"model": 3e-4, "fp16": 7e-4, "int8": 4e-3}
FED = ([5, 6, 7, 8, 9, 10, 11, 12, 13, 14], [99], [3], [40, 41], [7])
MODELS = ["llama", "qwen3"]
SIZES = {"model": 4, "fp16": 2, "int8": 1}


def steps(model: Decoder | ReferenceModel) -> np.ndarray:
    return np.stack([model.step(list(tokens)) for tokens in FED])


def started(path, **options) -> Decoder:
    decoder = Decoder.load(path, **options)
    decoder.start(40)
    return decoder


@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_the_contract(kept, name, kind):
    _, out = kept(name, kv_cache=kind)

    got, expected = steps(started(out)), steps(ReferenceModel(out))

    limit = TOLERANCE[kind] * np.abs(expected).max(axis=1)
    assert (np.abs(got - expected).max(axis=1) <= limit).all()
    assert got.argmax(axis=1).tolist() == expected.argmax(axis=1).tolist()


@pytest.mark.parametrize("kind", SIZES)
def test_a_token_takes_its_numbers_and_a_factor(kept, kind):
    result, out = kept("llama", kv_cache=kind)
    decoder = Decoder.load(out)
    numbers = 2 * 2 * 2 * 32  # layers, keys and values, heads, head size
    assert decoder.cache_bytes_per_token == numbers * SIZES[kind] + (2 * 2 * 2 * 4 if kind == "int8" else 0)
    assert decoder.config.share_buffer
    assert result.report["options"]["kv_cache"] == {"model": "fp32"}.get(kind, kind)
    config = json.loads(out.with_name("genai_config.json").read_text(encoding="utf-8"))
    assert config["model"]["decoder"]["head_size"] == (36 if kind == "int8" else 32)


@pytest.mark.parametrize(("kind", "dtype"), [("fp16", "fp32"), ("int8", "fp32"), ("int8", "fp16")])
def test_the_check_passes_with_and_without_the_library(kept, library, kind, dtype):
    result, out = kept("llama", kv_cache=kind, dtype=dtype, logits="all")
    for path in (library, None):
        outcome = check(result, out, path)
        assert outcome.passed
        # Each number is off by 1/440 of its row's largest in the mean, which is three times the mean of the row: 7e-3
        # in keys and values of 2 layers each.
        assert 1e-4 < outcome.relative_error < 3e-2


def test_the_nodes_of_the_function_give_what_the_block_gives(kept):
    """But for keys of the same call, which nodes round behind attention: one of all, with a token at a time."""
    _, out = kept("llama", kv_cache="int8")
    by_block, by_nodes = started(out), started(out, library=False)
    for token in range(5, 20):
        got, expected = by_nodes.step([token]), by_block.step([token])
        assert np.abs(got - expected).max() < 1.5e-2 * np.abs(expected).max()


def test_relayout_takes_such_a_model_apart_and_joins_it(kept, tmp_path):
    _, out = kept("llama", kv_cache="int8")
    there, back = tmp_path / "there" / "model.onnx", tmp_path / "back" / "model.onnx"
    relayout(out, there, next(layout.name for layout in OP.layouts if layout.blocks))
    relayout(there, back, "plain")
    assert back.read_bytes() == out.read_bytes()
    model = onnx.load(there, load_external_data=False)
    assert [node.op_type for node in model.graph.node].count(ATTENTION.name) == 2
    assert {v.type.tensor_type.elem_type for v in model.graph.input if "past" in v.name} == {onnx.TensorProto.INT8}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"fuse": "none"}, "expected model with fuse none.*, got int8; leave kv_cache out, or use fuse all"),
        ({"target": "cuda"}, "expected model with target cuda.*or use target cpu"),
        ({"op": "matmulnbits"}, "expected model with op matmulnbits.*or use op dualbinary"),
    ],
    ids=str,
)
def test_only_blocks_read_another_type(options, expected):
    with pytest.raises(OptionError, match=f"kv_cache: {expected}"):
        ExportOptions(kv_cache="int8", **options)


@pytest.mark.parametrize(
    "options",
    [{"target": "cuda", "kv_cache": "fp16"}, {"fuse": "none", "dtype": "fp16", "kv_cache": "fp16"}],
    ids=str,
)
def test_the_type_of_the_model_is_no_other_type(options):
    assert not ExportOptions(**options).converts_cache
    assert ExportOptions(**options).cache_type == "fp16"


@pytest.mark.parametrize("name", ["phi", "llama_head20", "gemma4_text"])
def test_a_model_whose_attention_stays_nodes_is_refused_before_any_work(pristine_model, tmp_path, capsys, name):
    out = tmp_path / "out" / "model.onnx"

    code = main([str(pristine_model(name)), str(out), "--kv-cache", "int8"])

    assert code == 2
    assert not out.parent.exists()
    error = capsys.readouterr().err
    assert f"--kv-cache: expected model for a {name.partition('_head')[0]} of this configuration" in error
    assert "no block stands for the attention of layers 0, 1 (2 in all)" in error
    assert "leave --kv-cache out" in error


def test_layers_with_states_keep_them(pristine_model, tmp_path):
    """LFM2 has short convolutions beside attention: only keys and values change their type."""
    out = tmp_path / "model.onnx"
    export(pristine_model("lfm2"), out, ExportOptions(kv_cache="int8", **QUICK))
    inputs = onnx.load(out, load_external_data=False).graph.input
    kinds = {value.name.split(".")[0]: value.type.tensor_type.elem_type for value in inputs if "past" in value.name}
    assert kinds == {"past_key_values": onnx.TensorProto.INT8, "past": onnx.TensorProto.FLOAT}
