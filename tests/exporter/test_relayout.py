"""`dualbinary relayout` on exported models: every way and back, refusals, files that appear together or not at all."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import runtime_ext
from dualbinary import OP, InputError, pack_planes
from dualbinary.onnx_files.relayout.__main__ import main
from dualbinary.onnx_files.relayout.convert import relayout
from exporter.verify import check
from tests.support.measures import run_measured
from tests.support.problems import make_problem, op_model
from tests.support.sessions import logits

LAYOUTS = [layout.name for layout in OP.layouts]
BLOCKS = [layout.name for layout in OP.layouts if layout.blocks]
READABLE = [name for name in runtime_ext.describe()["layouts"] if name in BLOCKS]
FORMS = [
    {},
    {"levels": "free", "planes": 2, "offset": False, "group_size": 96, "scale_bits": 8},
    {"levels": "free", "planes": 3, "fallback": "standard"},
]


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def layouts_of(path: Path) -> set[int]:
    nodes = onnx.load(path, load_external_data=False).graph.node
    attributes = (each for node in nodes if node.domain in OP.domain_names for each in node.attribute)
    return {each.i for each in attributes if each.name.rpartition("_")[2] == "layout"}  # of blocks with a prefix


@pytest.fixture
def model(kept, tmp_path):
    """A tiny model as it is exported, free to be changed."""
    exported = kept("llama")[1]
    return shutil.copytree(exported.parent, tmp_path / "exported") / exported.name


@pytest.mark.parametrize(
    ("form", "before"), [(FORMS[0], ("codes",)), (FORMS[1], ("plain", "codes"))], ids=["even", "free, even head"]
)
def test_every_way_and_back_gives_the_same_bytes(kept, tmp_path, form, before):
    _, plain = kept("qwen2", **form)
    numbers = layouts_of(plain)
    assert numbers == {OP.layout_named(name).number for name in before}
    for name in BLOCKS:
        there, back = tmp_path / name / "model.onnx", tmp_path / f"{name}-plain" / "model.onnx"
        outcome = relayout(plain, there, name)
        assert (set(outcome.before), outcome.layout) == (set(before), name)
        assert layouts_of(there) == {OP.layout_named(name).number}
        relayout(there, back, "plain")
        assert contents(back.parent) == contents(plain.parent)
        for other in BLOCKS:
            direct, around = tmp_path / f"{name}-{other}" / "model.onnx", tmp_path / f"{other}.direct" / "model.onnx"
            relayout(there, direct, other)
            relayout(plain, around, other, force=True)
            assert contents(direct.parent) == contents(around.parent)


@pytest.mark.parametrize(("layout", "form"), zip(BLOCKS, FORMS, strict=True), ids=str)
def test_an_export_in_blocks_holds_what_relayout_makes(kept, tmp_path, layout, form):
    form = form | {"embedding_bits": 16}  # an export leaves the planes of a head in layout plain
    _, plain = kept("qwen2", **form)
    relayout(plain, tmp_path / "converted" / "model.onnx", layout)
    result, out = kept("qwen2", layout=layout, **form)
    # The function's nodes may stand in another form of the same text; data, configuration and report are the same.
    names = set(contents(out.parent)) - {"model.onnx"}
    assert {n: contents(out.parent)[n] for n in names} == {n: contents(tmp_path / "converted")[n] for n in names}
    onnx.checker.check_model(str(out))
    outcome = check(result, out, None)
    assert outcome.passed, outcome
    assert outcome.kernel == "fallback"


@pytest.mark.parametrize("layout", READABLE)
@pytest.mark.parametrize("level", [0, 4])
def test_a_session_gives_the_logits_of_layout_plain(kept, tmp_path, monkeypatch, layout, level):
    _, plain = kept("llama", accuracy_level=level)
    relayout(plain, tmp_path / "model.onnx", layout)
    kernels = {kernel["layout"]: kernel["isa"] for kernel in runtime_ext.describe()["kernels"]}
    monkeypatch.setenv("DUALBINARY_ISA", kernels[layout])
    ids = np.array([[5, 9, 40]])
    np.testing.assert_array_equal(logits(tmp_path / "model.onnx", ids), logits(plain, ids))


def test_model_files_come_along_and_say_what_is_true(model, tmp_path):
    (model.parent / "tokenizer.json").write_text("{}")
    out = tmp_path / "new" / "other.onnx"
    outcome = relayout(model, out, "avx2")
    files = {path.name for path in out.parent.iterdir()}
    expected = {path.name for path in model.parent.iterdir()} - {"model.onnx", "model.onnx.data"}
    assert files == expected | {"other.onnx", "other.onnx.data"}
    assert set(outcome.copied) == expected
    assert json.loads((out.parent / "genai_config.json").read_text())["model"]["decoder"]["filename"] == "other.onnx"
    report = json.loads((out.parent / "export_report.json").read_text())
    assert report["options"]["layout"] == "avx2"
    assert report["totals"]["file_bytes"] == (out.parent / "other.onnx.data").stat().st_size


def test_a_report_counts_signs_of_rotations_and_bits_of_tables(kept, tmp_path):
    _, plain = kept("llama", rotate=32, embedding_bits=2)
    there, back = tmp_path / "avx2" / "model.onnx", tmp_path / "back" / "model.onnx"
    relayout(plain, there, "avx2")
    relayout(there, back, "plain")
    before, report, after = (
        json.loads((path.parent / "export_report.json").read_text()) for path in (plain, there, back)
    )
    assert after == before
    totals = report["totals"]
    model = onnx.load(there, load_external_data=False)
    parts = [tensor for tensor in model.graph.initializer if tensor.name.endswith((".planes", ".scales"))]
    of_tables = tuple(table["parameter"] for table in report["tables"])
    stored = sum(numpy_helper.to_array(t, str(there.parent)).nbytes for t in parts if not t.name.startswith(of_tables))
    assert totals["sign_bytes"] == before["totals"]["sign_bytes"] > 0
    assert totals["plane_bytes"] == stored + totals["sign_bytes"]
    assert totals["bits_per_weight"] == 8 * totals["plane_bytes"] / totals["quantised_weights"]
    assert [table["bytes"] for table in report["tables"]] != [table["bytes"] for table in before["tables"]]
    for table in report["tables"]:
        assert table["bits_per_weight"] == 8 * table["bytes"] / table["weights"]


def test_a_report_of_a_version_to_come_is_refused(model, tmp_path):
    path = model.parent / "export_report.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"report_version": 2}))
    with pytest.raises(InputError, match=r"report_version 2 is newer than 1, .* upgrade dualbinary"):
        relayout(model, tmp_path / "new" / "other.onnx", "avx2")
    assert not (tmp_path / "new" / "other.onnx").exists()


def test_in_the_same_directory_model_files_stay(model):
    before = contents(model.parent)
    outcome = relayout(model, model.with_name("fast.onnx"), "avx2")
    assert outcome.copied == ()
    after = contents(model.parent)
    assert {name: after[name] for name in before} == before
    assert set(after) == {*before, "fast.onnx", "fast.onnx.data"}


def test_existing_files_are_replaced_only_when_forced(model, tmp_path):
    (tmp_path / "model.onnx.data").write_text("mine")
    with pytest.raises(InputError, match=r"already holds model\.onnx\.data"):
        relayout(model, tmp_path / "model.onnx", "neon")
    assert (tmp_path / "model.onnx.data").read_text() == "mine"
    relayout(model, tmp_path / "model.onnx", "neon", force=True)
    assert layouts_of(tmp_path / "model.onnx") == {4}


def test_the_input_is_never_the_output(model, tmp_path):
    before = contents(model.parent)
    link = tmp_path / "link.onnx"
    link.symlink_to(model)
    for out in (model, link):
        with pytest.raises(InputError, match="is the input"):
            relayout(model, out, "avx2", force=True)
    moved = model.with_name("renamed.onnx")
    shutil.copy(model, moved)
    with pytest.raises(InputError, match=r"would replace model\.onnx\.data, which the input reads"):
        relayout(moved, model, "avx2", force=True)
    moved.unlink()
    assert contents(model.parent) == before


def save(model: onnx.ModelProto, path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    onnx.save(model, str(path), save_as_external_data=True, location="data", size_threshold=1024)
    return path


def damaged(kind: str, model: onnx.ModelProto, path: Path) -> None:
    """Write the model with one thing wrong."""
    node = model.graph.node[0]
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if kind == "unknown layout":
        attributes["layout"].i = 9
    elif kind == "no K":
        node.attribute.remove(attributes["K"])
    elif kind == "negative N":
        attributes["N"].i = -4
    elif kind == "other N":
        attributes["N"].i = 999
    elif kind == "group size":
        attributes["group_size"].i = 48
    elif kind == "not an initializer":
        node.input[1] = "X"
    elif kind == "claims blocks":
        attributes["layout"].i = 2
    elif kind == "second user":
        model.graph.node.append(helper.make_node("Cast", ["planes"], ["Z"], to=1))
    elif kind == "no node":
        node.op_type = "Other"
    save(model, path)
    if kind == "truncated":
        os.truncate(path.with_name("data"), 100)
    elif kind == "missing data":
        path.with_name("data").unlink()
    elif kind in ("outside", "negative offset"):
        broken = onnx.load(path, load_external_data=False)
        for entry in broken.graph.initializer[0].external_data:
            if kind == "outside" and entry.key == "location":
                entry.value = "../data"
            if kind == "negative offset" and entry.key == "offset":
                entry.value = "-5"
        path.write_bytes(broken.SerializeToString())
    elif kind == "not onnx":
        path.write_bytes(b"\x00\x01\x02 nothing")
    elif kind == "empty":
        path.write_bytes(b"")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("unknown layout", r"node 'proj': attribute layout: expected one of \[1, 2, 3, 4, 5\], got 9"),
        ("no K", "node 'proj': attribute K: expected an integer, got None"),
        ("negative N", "node 'proj': attribute N: expected an integer"),
        ("other N", r"node 'proj'.planes: expected shape \[2, 999, 64\]"),
        ("group size", "attribute group_size: expected a positive multiple of 32, got 48"),
        ("not an initializer", "node 'proj': planes and scales must be initializers"),
        ("claims blocks", "node 'proj': layout avx512: scales: expected empty"),
        ("second user", "other nodes read the planes of all DualBinaryMatMul nodes too"),
        ("no node", "has no dualbinary::DualBinaryMatMul node"),
        ("truncated", r"needs bytes \d+ to \d+ of data, which has 100"),
        ("missing data", "its data file 'data' is not beside the model"),
        ("outside", r"its data file '../data' is not beside the model"),
        ("negative offset", "needs bytes -5"),
        ("not onnx", "not an ONNX model"),
        ("empty", "not an ONNX model"),
    ],
)
def test_a_damaged_model_gives_one_error_and_no_file(tmp_path, capsys, kind, message):
    (tmp_path / "data").write_bytes(bytes(1 << 20))
    model = op_model(make_problem(K=512, N=96), layout=1, accuracy_level=0)
    damaged(kind, model, tmp_path / "in" / "model.onnx")
    out = tmp_path / "out" / "model.onnx"
    assert main([str(tmp_path / "in" / "model.onnx"), str(out), "--layout", "avx2"]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1
    assert re.search(message, errors[0]), errors[0]
    assert not out.parent.exists()


def test_a_model_that_is_not_there_is_named(tmp_path, capsys):
    assert main([str(tmp_path / "none.onnx"), str(tmp_path / "out.onnx"), "--layout", "avx2"]) == 2
    assert "none.onnx: no such file" in capsys.readouterr().err


def test_weights_inside_the_model_file_and_shared_by_nodes_change_once(tmp_path):
    model = op_model(make_problem(K=64, N=64, group_size=32))
    second = model.graph.node.add()
    second.CopyFrom(model.graph.node[0])
    second.name, second.input[0], second.output[0] = "second", "Y", "Z"
    model.graph.output[0].name = "Z"
    onnx.save(model, tmp_path / "model.onnx")
    outcome = relayout(tmp_path / "model.onnx", tmp_path / "new.onnx", "avx512")
    assert (outcome.weights, outcome.before) == (1, ("plain",))
    assert layouts_of(tmp_path / "new.onnx") == {2}
    relayout(tmp_path / "new.onnx", tmp_path / "back.onnx", "plain")
    back = onnx.load(tmp_path / "back.onnx").graph.initializer
    for tensor, before in zip(back, model.graph.initializer, strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), numpy_helper.to_array(before))


def test_nodes_that_read_one_weight_differently_are_refused(tmp_path):
    model = op_model(make_problem(K=64, N=64, group_size=32))
    second = model.graph.node.add()
    second.CopyFrom(model.graph.node[0])
    second.name, second.output[0] = "second", "Z"
    next(a for a in second.attribute if a.name == "N").i = 32
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(InputError, match="nodes 'proj' and 'second' read the same planes differently"):
        relayout(tmp_path / "model.onnx", tmp_path / "new.onnx", "avx512")


def test_a_function_that_is_not_ours_is_refused(model, tmp_path):
    proto = onnx.load(model, load_external_data=False)
    function = next(f for f in proto.functions if f.name == OP.name)
    del function.node[:]
    function.node.append(helper.make_node("Identity", ["X"], ["Y"]))
    model.write_bytes(proto.SerializeToString())
    with pytest.raises(InputError, match="was not made by this project's exporter"):
        relayout(model, tmp_path / "out.onnx", "avx2")


def test_json_output_is_one_object(model, tmp_path):
    command = [sys.executable, "-m", "dualbinary", "relayout", str(model), str(tmp_path / "o.onnx"), "--layout", "avx2"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    assert (answer["layout"], answer["before"], answer["out"]) == ("avx2", ["codes"], str(tmp_path / "o.onnx"))
    assert done.stderr == ""


def test_without_onnx_one_line_says_what_to_install(model, tmp_path):
    hide = "import sys, runpy; sys.modules['onnx'] = None; sys.argv = sys.argv[1:]; "
    hide += "runpy.run_module('dualbinary', run_name='__main__', alter_sys=True)"
    words = ["dualbinary", "relayout", str(model), str(tmp_path / "out.onnx"), "--layout", "avx2"]
    done = subprocess.run([sys.executable, "-c", hide, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install 'dualbinary[relayout]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["model.json", "model.textproto", "model.bin"])
def test_a_file_that_is_no_model_is_refused_whatever_its_name_ends_in(tmp_path, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(InputError, match="not an ONNX model"):
        relayout(tmp_path / name, tmp_path / "out.onnx", "avx2")


def test_importing_dualbinary_brings_no_onnx():
    code = "import sys, dualbinary.__main__, dualbinary.onnx_files.unpack_function; assert 'onnx' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def large_model(path: Path, nodes: int) -> Path:
    """A chain of products with weights of 2 MiB each."""
    K = N = 2944
    first = op_model(make_problem(K=64, N=32))
    del first.graph.node[:], first.graph.initializer[:]
    first.graph.input[0].type.tensor_type.shape.dim[-1].dim_value = K
    planes = pack_planes(np.random.default_rng(0).integers(0, 2, (2, N, K), np.uint8), 128)
    for i in range(nodes):
        arrays = {f"planes{i}": planes, f"scales{i}": np.full((2, N, K // 128), i, np.float16)}
        first.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
        ends = ["X" if i == 0 else f"y{i}", *arrays], ["Y" if i == nodes - 1 else f"y{i + 1}"]
        first.graph.node.append(
            helper.make_node(OP.name, *ends, domain=OP.domain, name=f"n{i}", K=K, N=N, group_size=128)
        )
    return save(first, path)


def test_memory_does_not_grow_with_the_model(tmp_path):
    peaks = []
    for nodes in (2, 16):
        path = large_model(tmp_path / str(nodes) / "model.onnx", nodes)
        out = tmp_path / f"out{nodes}" / "model.onnx"
        peaks.append(run_measured(tmp_path, "dualbinary.onnx_files.relayout", path, out, "--layout", "neon")[1])
    # 14 more weights of 2.4 MB; a reader that kept them would take 34 MB more.
    assert peaks[1] - peaks[0] < 15e6


def test_a_run_that_is_ended_leaves_nothing(tmp_path):
    path = large_model(tmp_path / "in" / "model.onnx", 24)
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    command = [
        sys.executable,
        "-m",
        "dualbinary.onnx_files.relayout",
        str(path),
        str(out / "model.onnx"),
        "--layout",
        "avx512",
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(2000):
            if any(out.glob(".dualbinary-*/model.onnx.data")) or process.poll() is not None:
                break
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 143, errors
    assert {file.name for file in out.iterdir()} == {"notes.txt"}
