"""The folder for transformers.js: what its source reads, file by file. That it does: tests/e2e/test_node.py."""

import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from dualbinary import InputError
from dualbinary.errors import OptionError
from exporter import transformers_js
from exporter.options import ExportOptions
from exporter.pipeline import export
from runtime_ext.decoder import Decoder, session_options
from tests.support.quick_fit import QUICK
from tests.support.tiny_tokenizers import write_tokenizer

TEMPLATE = "{{ messages[0].content }}"
PROMPT = [5, 9, 3]


def export_for_js(model_dir, folder, **options):
    return export(model_dir, folder / "model.onnx", ExportOptions(layout_for="transformersjs", **QUICK | options))


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def model_dir(tiny_model):
    directory = tiny_model("llama")
    write_tokenizer(directory)
    (directory / "chat_template.jinja").write_text(TEMPLATE)
    return directory


def test_files_have_the_names_that_the_configuration_says(model_dir, tmp_path):
    out = tmp_path / "out"
    result = export_for_js(model_dir, out, planes=2)

    config = read(out / "config.json")["transformers.js_config"]
    assert result.path == out / "onnx" / "model_q2.onnx"
    expected = {"dtype": "q2", "use_external_data_format": {"model_q2.onnx": 1}, "kv_cache_dtype": "float32"}
    assert config == expected
    assert {path.name for path in (out / "onnx").iterdir()} == {"model_q2.onnx", "model_q2.onnx_data"}
    assert read(out / "genai_config.json")["model"]["decoder"]["filename"] == "onnx/model_q2.onnx"
    assert read(out / "tokenizer_config.json")["chat_template"] == TEMPLATE


def test_the_model_runs_and_is_the_usual_one(model_dir, tmp_path):
    usual = export(model_dir, tmp_path / "usual" / "model.onnx", ExportOptions(verify_tokens=0, **QUICK)).path
    path = export_for_js(model_dir, tmp_path / "out").path

    sizes = {value.name: value.type.tensor_type.shape.dim[0].dim_param for value in onnx.load(path).graph.input}
    assert set(sizes.values()) == {"batch_size"}
    logits = []
    for each in (usual, path):
        decoder = Decoder.load(each)
        decoder.start(len(PROMPT))
        logits.append(decoder.step(PROMPT))
    assert np.array_equal(*logits)


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ({"planes": 1}, "q1"),
        ({"planes": 3, "dtype": "fp16"}, "q4f16"),
        ({"planes": 4, "op": "matmulnbits", "levels": "even"}, "q4"),
        ({"planes": 6}, "q8"),
    ],
)
def test_the_width_of_most_weights_names_the_file(model_dir, tmp_path, options, dtype):
    export_for_js(model_dir, tmp_path / "out", **options)
    config = read(tmp_path / "out" / "config.json")["transformers.js_config"]
    assert config["dtype"] == dtype
    assert config["kv_cache_dtype"] == ("float16" if "f16" in dtype else "float32")


def test_parts_of_the_data_give_the_same_logits(model_dir, tmp_path, monkeypatch):
    """A limit between one tensor and all: several parts, each up to it, or a single tensor."""
    whole = export_for_js(model_dir, tmp_path / "whole").path
    limit = 20_000
    split = transformers_js.split_data
    monkeypatch.setattr(transformers_js, "split_data", lambda proto, data: split(proto, data, limit))
    parted = export_for_js(model_dir, tmp_path / "parted").path

    parts = sorted(parted.parent.glob("*_data*"))
    config = read(tmp_path / "parted" / "config.json")["transformers.js_config"]
    assert config["use_external_data_format"] == {parted.name: len(parts)}
    names = [f"{parted.name}_data", *(f"{parted.name}_data_{number}" for number in range(1, len(parts)))]
    assert len(parts) > 2
    assert {part.name for part in parts} == set(names)
    tensors = list(onnx.load(parted, load_external_data=False).graph.initializer)
    largest = max(onnx.numpy_helper.to_array(tensor, str(parted.parent)).nbytes for tensor in tensors)
    assert all(part.stat().st_size <= max(limit, largest) for part in parts)
    assert sum(part.stat().st_size for part in parts) == whole.with_name(f"{whole.name}_data").stat().st_size
    feeds = {"input_ids": np.array([PROMPT]), "attention_mask": np.ones((1, len(PROMPT)), np.int64)}
    logits = []
    for path in (whole, parted):
        session = ort.InferenceSession(str(path), session_options(), providers=["CPUExecutionProvider"])
        past = {each.name: each for each in session.get_inputs() if each.name.startswith("past")}
        caches = {name: np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32) for name, value in past.items()}
        logits.append(session.run(["logits"], feeds | caches)[0])
    assert np.array_equal(*logits)


def test_older_files_survive_an_export_that_fails_and_go_with_one_that_is_forced(model_dir, tmp_path, monkeypatch):
    out = tmp_path / "out"
    export_for_js(model_dir, out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=r"already holds onnx/model_q4\.onnx"):
        export_for_js(model_dir, out)
    options = ExportOptions(layout_for="transformersjs", accuracy_level=4, **QUICK)
    with monkeypatch.context() as broken:
        broken.setattr("exporter.pipeline.genai_notes", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export(model_dir, out / "model.onnx", options, force=True)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    export(model_dir, out / "model.onnx", options, force=True)
    assert (out / "onnx" / "model_q4.onnx").read_bytes() != before[out / "onnx" / "model_q4.onnx"]
    assert {path for path in out.rglob("*") if path.is_file()} == set(before)


def test_models_of_other_widths_and_parts_of_more_data_go_with_an_export_that_is_forced(model_dir, tmp_path):
    out = tmp_path / "out"
    export_for_js(model_dir, out, planes=4)
    (out / "onnx" / "model_q4.onnx_data_1").write_bytes(b"a second part")
    (out / "onnx" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"already holds onnx/model_q4\.onnx, onnx/model_q4\.onnx_data, onnx/model_q4"):
        export_for_js(model_dir, out, planes=2)
    options = ExportOptions(layout_for="transformersjs", planes=2, levels="even")
    export(model_dir, out / "model.onnx", options, force=True)
    expected = {"model_q2.onnx", "model_q2.onnx_data", "notes.txt"}
    assert {path.name for path in (out / "onnx").iterdir()} == expected


def test_what_no_javascript_runs_is_refused(tiny_model, tmp_path):
    with pytest.raises(OptionError, match="registers no library"):
        ExportOptions(layout_for="transformersjs", fallback="none")
    with pytest.raises(OptionError, match="providers take the same file"):
        ExportOptions(layout_for="transformersjs", target="cuda")
    with pytest.raises(OptionError, match="cannot read int8 rows"):
        ExportOptions(layout_for="transformersjs", kv_cache="int8")
    directory = tiny_model("lfm2")
    with pytest.raises(InputError, match=r"other\.onnx: .* names the model itself"):
        export(directory, tmp_path / "other.onnx", ExportOptions(layout_for="transformersjs"))
    with pytest.raises(InputError, match="layers with states"):
        export_for_js(directory, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_type_that_the_library_lacks_is_told(tiny_model, tmp_path):
    result = export_for_js(tiny_model("nemotron"), tmp_path / "out")
    assert any("has no causal model of type nemotron" in warning for warning in result.warnings)
