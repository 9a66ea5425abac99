"""`dualbinary inspect` of exports and checkpoints: formats, bits, what planes hold, and the page."""

import json
import re
import shutil

import numpy as np
import onnx
import pytest

from dualbinary.contract.weight import EACH_GROUP, PlaneFormat
from exporter.options import ExportOptions
from exporter.pipeline import export
from importer.inspect.__main__ import main
from tests.support.quantized_checkpoints import quantize
from tests.support.tiny_models import make_model

EVEN = PlaneFormat(4, 32, levels="even", zero=EACH_GROUP)
LAYER, TABLE = "model.layers.0.self_attn.o_proj", "model.embed_tokens"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    directory = tmp_path_factory.mktemp("inspected")
    make_model("llama_tied", directory / "model")
    quantize(
        directory / "model",
        directory / "checkpoint",
        overrides={LAYER: EVEN},
        tables={TABLE: EVEN},
        block_sizes={LAYER: 64},
    )
    return directory / "checkpoint"


@pytest.fixture(scope="module")
def exported(checkpoint):
    """Exports of the checkpoint by operator."""
    files = {}
    for op in ("dualbinary", "matmulnbits"):
        source = checkpoint
        if op == "matmulnbits":
            source = checkpoint.parent / "even"
            quantize(checkpoint.parent / "model", source, form=EVEN)
        files[op] = checkpoint.parent / op / "model.onnx"
        export(source, files[op], ExportOptions(op=op))
    return files


@pytest.fixture
def inspect(capsys):
    def run(*arguments):
        code = main([str(each) for each in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_a_checkpoint_layer_by_layer(inspect, checkpoint):
    code, out, err = inspect(checkpoint, "--json", "--densities")
    assert code == 0, err
    facts = json.loads(out)
    assert (facts["kind"], facts["model_type"]) == ("checkpoint", "llama")
    layers = {each["name"]: each for each in facts["layers"]}
    rotated = layers[LAYER]
    assert (
        rotated["form"] == "4 planes, G=32, even levels, a zero for each group, float16 scales, rotated in blocks of 64"
    )
    # 4 bits; 16 of a step for 32 weights; of zero points a byte in each plane for the groups of a row; 8 of a sign.
    assert rotated["bits_per_weight"] == pytest.approx(4 + 16 / 32 + 4 * 8 / 128 + 8 / 128)
    assert (layers[TABLE]["N"], layers[TABLE]["K"]) == (256, 128)
    assert len(rotated["density"]) == 4
    assert all(0.4 < share < 0.6 for share in rotated["density"])  # random bits
    assert facts["files"].keys() == {"model.safetensors"}
    stored = sum(each["bytes"] for each in (*facts["layers"], *facts["others"]))
    assert facts["totals"]["bytes"] == stored < facts["files"]["model.safetensors"]


def test_an_export_says_the_same_of_its_weights_and_more(inspect, checkpoint, exported):
    _, out, _ = inspect(exported["dualbinary"], "--json", "--densities")
    facts = json.loads(out)
    assert (facts["kind"], facts["model_type"]) == ("export", "llama")
    of_checkpoint = {
        each["name"]: each for each in json.loads(inspect(checkpoint, "--json", "--densities")[1])["layers"]
    }
    same = next(each for each in facts["layers"] if each["name"].endswith("layers.0.self_attn.o_proj"))
    assert np.allclose(same["density"], of_checkpoint[LAYER]["density"])
    assert same["entropy"] == pytest.approx(of_checkpoint[LAYER]["entropy"])
    assert "rotated" not in same["form"]  # the transform is a node of its own
    assert {"model.onnx", "model.onnx.data"} <= facts["files"].keys()
    assert any(name.startswith("dualbinary") for name in facts["facts"]["operators"])
    assert facts["facts"]["opsets"]["ai.onnx"] >= 17
    assert "input_ids" in facts["facts"]["inputs and outputs"]
    assert any(key.startswith("key float [") and value == "2 layers" for key, value in facts["facts"]["cache"].items())


def test_weights_of_onnx_runtimes_own_operator_are_layers_too(inspect, exported):
    facts = json.loads(inspect(exported["matmulnbits"], "--json")[1])
    assert {each["form"] for each in facts["layers"] if "down" in each["name"]} == {"MatMulNBits, 4 bits, blocks of 32"}
    assert all(each["density"] is None for each in facts["layers"])


def stored_bytes(path):
    """Bytes of all tensors of a file, each place in its data file once."""
    tensors = onnx.load(path, load_external_data=False).graph.initializer
    places, inside = {}, 0
    for tensor in tensors:
        if entries := {each.key: each.value for each in tensor.external_data}:
            places[entries["offset"]] = int(entries["length"])
        else:
            inside += len(tensor.raw_data) or onnx.numpy_helper.to_array(tensor).nbytes
    return sum(places.values()) + inside


@pytest.mark.parametrize("planes", [2, 4])
@pytest.mark.parametrize("model", ["llama", "llama_tied"])
def test_weights_that_standard_operators_unpack_are_layers_too(inspect, tmp_path, model, planes):
    source, out = make_model(model, tmp_path / model), tmp_path / "out" / "model.onnx"
    result = export(source, out, ExportOptions(planes, op="dequantizelinear", levels="even", embedding_bits=planes))
    facts = json.loads(inspect(out, "--json")[1])
    assert {each["form"] for each in facts["layers"]} == {f"DequantizeLinear, {planes} bits, blocks of 64"}
    layers = {each["name"].removesuffix(".MatMulNBits_1"): each for each in facts["layers"]}
    head = result.graph.head
    assert head is not None
    # Attention's first three products are one node, and the first two of the MLP.
    assert len(layers) == 2 * 4 + 1
    assert facts["totals"]["weights"] == result.report["totals"]["quantised_weights"] + head.rows * head.width
    down = layers["model.layers.1.mlp.down_proj"]
    assert (down["N"], down["K"]) == (128, 160)  # which the graph pads to three blocks
    # Zero points of one shape are one tensor, which the first layer is given.
    assert down["bits_per_weight"] == (planes * 192 + 3 * 16) / 160
    assert layers["model.layers.1.self_attn.o_proj"]["bits_per_weight"] == planes + 16 / 64
    assert facts["totals"]["bytes"] == stored_bytes(out)
    # The head is a table of its own here, and the embedding one of bytes; or they are one.
    assert ("uint8" in {each["type"] for each in facts["others"]}) == (model == "llama")


@pytest.mark.parametrize("options", [{"op": "matmulnbits"}, {"op": "matmulnbits", "embedding_bits": 4}, {}], ids=str)
def test_nothing_is_counted_twice(inspect, tmp_path, options):
    source, out = make_model("llama_tied", tmp_path / "model"), tmp_path / "out" / "model.onnx"
    export(source, out, ExportOptions(planes=4, levels="even", **options))
    facts = json.loads(inspect(out, "--json")[1])
    assert facts["totals"]["bytes"] == stored_bytes(out)
    assert all(each["bits_per_weight"] >= 4 + 16 / 64 for each in facts["layers"] if "layers" in each["name"])


def test_the_table_for_people(inspect, exported, checkpoint):
    _, out, _ = inspect(exported["dualbinary"])
    assert f"{exported['dualbinary']}: an export, a llama" in out
    assert "density" not in out
    assert re.search(r"4 planes, G=32, even levels, a zero for each group, .*\d", out)
    assert "a checkpoint, a llama" in inspect(checkpoint, "--densities")[1]
    assert "density of planes" in inspect(checkpoint, "--densities")[1]


@pytest.mark.parametrize("kind", ["checkpoint", "export"])
def test_the_page_is_one_file_that_loads_nothing(inspect, checkpoint, exported, tmp_path, kind):
    page = tmp_path / "page.html"
    code, out, err = inspect(checkpoint if kind == "checkpoint" else exported["dualbinary"], "--html", page)
    assert code == 0, err
    assert f"page: {page}" in out
    text = page.read_text()
    assert text.count("<svg") == 3  # bits, sizes, planes
    assert not re.search(r"(src|href)=\"(?!#)", text.replace("xlink:href", "href"))
    assert not re.search(r"url\((?!#)", text)
    assert "layers.0.self_attn.o_proj" in text
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_a_page_replaces_pages_alone(inspect, exported, tmp_path):
    model = shutil.copytree(exported["dualbinary"].parent, tmp_path / "export") / "model.onnx"
    before = model.read_bytes()
    code, out, err = inspect(model, "--html", model)
    assert (code, out) == (2, "")
    assert "exists and is no page; choose a name that ends in .html" in err
    assert model.read_bytes() == before
    for _ in range(2):
        assert inspect(model, "--html", tmp_path / "page.html")[0] == 0


def test_what_cannot_be_shown_is_said_and_nothing_is_written(inspect, checkpoint, exported, tmp_path):
    code, _, err = inspect(checkpoint.parent / "model", "--html", tmp_path / "page.html")
    assert code == 2
    assert "neither an export nor a checkpoint" in err
    assert not (tmp_path / "page.html").exists()
    assert "a directory; expected a file" in inspect(checkpoint, "--html", tmp_path)[2]
    assert "its directory does not exist" in inspect(checkpoint, "--html", tmp_path / "no" / "page.html")[2]
    assert f"give its file, {exported['dualbinary']}" in inspect(exported["dualbinary"].parent)[2]
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    code, _, err = inspect(tmp_path / "bad.onnx")
    assert code == 2
    assert "not an ONNX model" in err
