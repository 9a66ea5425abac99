"""Files as each version wrote them, which every release reads; and files of versions to come, which are refused."""

import hashlib
import json
import shutil

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

import runtime_ext
from calib.config import CONFIG_VERSION, CalibConfig
from calib.report.record import read_record_file
from dualbinary import OP, InputError
from dualbinary.checkpoint import FORMAT_VERSION, QuantizationConfig
from dualbinary.onnx_files.relayout.convert import relayout
from exporter.options import ExportOptions
from exporter.pipeline import export
from importer.inspect.export import export_facts
from runtime_ext.decoder import Decoder
from runtime_ext.operator_versions import opset_imports
from tests.support.versions import CASES, FOLDER, logits_of

MODELS = [name for name, case in CASES.items() if case.model]
CHECKPOINTS = [name for name, case in CASES.items() if case.calib]

# Of the largest logit. The function sums in float32 as it did then, in an order of ONNX Runtime's choice; the library
# rounds the inputs of each of five products to 2^-15 of the largest of a group.
FUNCTION_ERROR, LIBRARY_ERROR = 1e-5, 5 * 2**-15 * 4

DIGESTS = {
    "checkpoint1": "3c0a81d2e3a0e247",
    "checkpoint2": "8ae118fc26b57836",
    "checkpoint3": "17422fab6035964f",
    "checkpoint4": "22d5be31b642b702",
    "checkpoint4_start": "50fcbc7297706d36",
    "op1": "ace00402841dcba3",
    "op2_blocks": "75d99811d7aba6fa",
    "op2_codes": "59e0ae7f19cab1e4",
}


def digest_of(folder):
    """Of the names and bytes of all files of a case."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def expected(name):
    return np.load(FOLDER / name / "expected.npy")


def assert_close(logits, right, error):
    assert np.abs(logits - right).max() <= error * np.abs(right).max()


def test_files_of_a_version_never_change():
    """A file that is made anew tests the new writer alone."""
    assert {name: digest_of(FOLDER / name) for name in CASES} == DIGESTS


def test_there_are_files_of_every_version():
    models = {opset_imports(FOLDER / name / "model.onnx")[OP.domain] for name in MODELS}
    configs = [json.loads((FOLDER / name / "config.json").read_text()) for name in CHECKPOINTS]
    records = [json.loads((FOLDER / name / "calibration.json").read_text())["config"] for name in CHECKPOINTS]
    assert models == set(range(1, OP.version + 1))
    assert {config["quantization_config"]["format_version"] for config in configs} == set(range(1, FORMAT_VERSION + 1))
    assert {record["version"] for record in records} == set(range(1, CONFIG_VERSION + 1))
    graphs = [onnx.load(FOLDER / name / "model.onnx", load_external_data=False).graph for name in MODELS]
    nodes = [node for graph in graphs for node in graph.node]
    layouts = {each.i for node in nodes for each in node.attribute if each.name.endswith("layout")}
    layouts |= {OP.layout_named(name).number for case in CASES.values() for name in case.layouts}
    assert layouts == {layout.number for layout in OP.layouts}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("library", "error"), [(False, FUNCTION_ERROR), (True, LIBRARY_ERROR)], ids=["function", "library"]
)
def test_models_of_every_version_give_their_logits(name, library, error):
    assert_close(logits_of(FOLDER / name / "model.onnx", library=library), expected(name), error)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_checkpoints_of_every_version_export_to_their_logits(name, tmp_path):
    options = ExportOptions(embedding_bits=32) if "--embedding-bits" in CASES[name].export else ExportOptions()
    export(FOLDER / name, tmp_path / "model.onnx", options)
    assert_close(logits_of(tmp_path / "model.onnx", library=False), expected(name), FUNCTION_ERROR)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_configurations_and_records_of_every_version_are_read(name):
    assert CalibConfig.read(FOLDER / name / "calibration.json").version == CONFIG_VERSION
    read_record_file(FOLDER / name / "calibration.json")


@pytest.mark.parametrize("layout", ["avx512", "avx2", "neon"])
def test_relayout_gives_the_bytes_of_the_first_exports_in_a_layout(layout, tmp_path):
    stored = json.loads((FOLDER / "op1" / "layouts.json").read_text())[layout]
    there, back = tmp_path / "there" / "model.onnx", tmp_path / "back" / "model.onnx"
    relayout(FOLDER / "op1" / "model.onnx", there, layout)
    assert hashlib.sha256(there.with_name("model.onnx.data").read_bytes()).hexdigest() == stored
    relayout(there, back, "plain")
    data = (FOLDER / "op1" / "model.onnx.data").read_bytes()
    assert back.with_name("model.onnx.data").read_bytes() == data


@pytest.fixture
def future(tmp_path):
    """The first model, as if the next version of the operators had written it."""
    shutil.copytree(FOLDER / "op1", tmp_path / "future")
    path = tmp_path / "future" / "model.onnx"
    model = onnx.load(path, load_external_data=False)
    for entry in [*model.opset_import, *(each for function in model.functions for each in function.opset_import)]:
        if entry.domain == OP.domain:
            entry.version = OP.version + 1
    onnx.save(model, path)
    return path


NEWER = rf"version {OP.version + 1} of the operators.*newer than {OP.version}.*upgrade dualbinary"


@pytest.mark.parametrize(
    "read",
    [
        Decoder.load,
        lambda path: relayout(path, path.parent.parent / "out.onnx", "avx2"),
        lambda path: export_facts(path, read=False),
    ],
    ids=["load", "relayout", "inspect"],
)
def test_a_model_of_a_newer_version_is_refused(read, future):
    with pytest.raises(InputError, match=NEWER):
        read(future)


def test_a_model_of_a_newer_version_runs_by_its_own_function(future):
    assert_close(logits_of(future, library=False), expected("op1"), FUNCTION_ERROR)


def test_the_library_refuses_a_node_that_says_a_newer_version(future):
    """ONNX Runtime tells it no version of a domain, so that such a node has to say it."""
    model = onnx.load(future)
    for node in model.graph.node:
        if node.op_type == OP.name:
            node.attribute.append(helper.make_attribute(OP.version_attribute, OP.version + 1))
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(runtime_ext.library_path()))
    message = rf"{OP.version_attribute}: {OP.version + 1} is newer than {OP.version}, the newest .* upgrade dualbinary"
    with pytest.raises(Exception, match=message):
        ort.InferenceSession(model.SerializeToString(), options)


def test_a_checkpoint_of_a_newer_version_is_refused():
    block = json.loads((FOLDER / "checkpoint1" / "config.json").read_text())["quantization_config"]
    with pytest.raises(InputError, match=rf"{FORMAT_VERSION + 1} is newer than {FORMAT_VERSION}.*upgrade dualbinary"):
        QuantizationConfig.from_dict({**block, "format_version": FORMAT_VERSION + 1})


def test_a_configuration_of_a_newer_version_is_refused():
    value = json.loads((FOLDER / "checkpoint1" / "calibration.json").read_text())["config"]
    message = rf"^here: version: {CONFIG_VERSION + 1} is newer than {CONFIG_VERSION}.*upgrade dualbinary"
    with pytest.raises(InputError, match=message):
        CalibConfig.from_json({**value, "version": CONFIG_VERSION + 1, "later": 1}, "here")


def test_a_record_of_a_newer_version_is_refused(tmp_path):
    record = json.loads((FOLDER / "checkpoint1" / "calibration.json").read_text())
    file = tmp_path / "calibration.json"
    file.write_text(json.dumps({**record, "version": record["version"] + 1}))
    with pytest.raises(InputError, match=r"version 2 is newer than 1.*upgrade dualbinary"):
        read_record_file(file)
