"""`--calibrate quick`, `--bits` and `--size`: true sizes of files, and what is refused."""

import json

import pytest

from dualbinary.files.sizes import parse_size
from exporter.__main__ import main
from exporter.options import ExportOptions
from exporter.preparation import graph_of_one_format, prepare
from exporter.size import other_bytes


@pytest.fixture
def short_windows(calibration_here):
    """Windows that fit the tiny models."""
    calibration_here += ["--length", "32", "--init-windows", "4", "--device", "cpu"]


def file_bytes(out):
    return sum(path.stat().st_size for path in (out, out.with_name(out.name + ".data")))


def report_of(out):
    return json.loads((out.parent / "export_report.json").read_text())


@pytest.mark.slow
def test_quick_takes_any_format(pristine_model, tmp_path, short_windows):
    out = tmp_path / "out" / "model.onnx"
    form = ["--planes", "3", "--levels", "even", "--group-size", "32", "--offset"]
    assert main([str(pristine_model("llama")), str(out), "--calibrate", "quick", *form, "--check", "--quiet"]) == 0
    rows = report_of(out)["layers"]
    assert {(row["planes"], row["group_size"], row["levels"], row["offset"]) for row in rows} == {(3, 32, "even", True)}


def test_bits_are_those_of_the_report(pristine_model, tmp_path, short_windows, capfd):
    out = tmp_path / "out" / "model.onnx"
    assert main([str(pristine_model("llama")), str(out), "--bits", "3.2", "--check", "--quiet"]) == 0
    report = report_of(out)
    assert 3.0 < report["totals"]["bits_per_weight"] <= 3.2
    assert {row["scale_type"] for row in report["layers"]} == {"uint8"}
    assert report["blocks"] == {"mlp": 2, "attention": 2, "other_attention": 0}  # as in an export of one format
    capfd.readouterr()
    again = [str(out.parent / "model-checkpoint"), str(tmp_path / "again" / "model.onnx"), "--quiet"]
    assert main([*again, "--scale-bits", "16"]) == 2
    assert "--scale-bits: expected 8, or 32, for model.layers.0.self_attn.q_proj" in capfd.readouterr().err
    assert main([*again, "--scale-bits", "32"]) == 0
    assert {row["scale_type"] for row in report_of(tmp_path / "again" / "model.onnx")["layers"]} == {"float32"}


@pytest.mark.parametrize("model", [pytest.param("llama", marks=pytest.mark.slow), "llama_tied"])
def test_a_file_is_as_large_as_was_asked(pristine_model, tmp_path, short_windows, model):
    directory, out = pristine_model(model), tmp_path / "out" / "model.onnx"
    options = ExportOptions()
    prepared = prepare(directory, out, options, (), force=False)
    size = other_bytes(graph_of_one_format(prepared, options), options) + 190_000
    assert main([str(directory), str(out), "--size", str(size), "--calibrate", "quick", "--quiet"]) == 0
    # Room for formats that were not chosen is not used, and a page is kept for each tensor.
    assert size - 150_000 < file_bytes(out) <= size
    record = json.loads((out.parent / "model-checkpoint" / "calibration.json").read_text())
    assert record["budget"]["size"] == size


def test_an_impossible_size_says_the_smallest(pristine_model, tmp_path, short_windows, capfd):
    directory, out = pristine_model("llama"), tmp_path / "out" / "model.onnx"
    with pytest.raises(SystemExit, match="2"):
        main([str(directory), str(out), "--size", "220kB", "--quiet"])
    error = capfd.readouterr().err
    smallest = error.partition(": expected ")[2].split()[0]
    assert "Traceback" not in error
    assert error.count("error:") == 1
    assert not out.parent.joinpath("model-checkpoint").exists()
    assert main([str(directory), str(out), "--size", smallest, "--quiet"]) == 0
    assert file_bytes(out) <= parse_size(smallest)


@pytest.mark.parametrize(
    ("arguments", "scales"),
    [([], {"uint8"}), (["--target", "cuda"], {"float16"}), (["--scale-bits", "32"], {"float32"})],
)
def test_trained_presets_have_a_format_that_the_kernels_of_the_target_run(
    pristine_model, tmp_path, short_windows, calibration_here, arguments, scales
):
    calibration_here += ["--stages", "init", "--generate", "6", "--init-refits", "0"]
    out = tmp_path / "out" / "model.onnx"
    assert main([str(pristine_model("llama")), str(out), "--calibrate", "fast", "--quiet", *arguments]) == 0
    rows = report_of(out)["layers"]
    assert {row["scale_type"] for row in rows} == scales
    formats = {(row["planes"], row["group_size"], row["levels"], row["offset"]) for row in rows}
    assert (formats == {(2, 96, "free", True)}) is bool(arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bits", "3", "--size", "1MB"], "--bits and --size: expected one of them"),
        (["--bits", "3", "--planes", "4"], "--bits decides the format of every layer; leave out --planes"),
        (["--bits", "3", "--no-offset"], "--bits decides the format of every layer; leave out --no-offset"),
        (["--bits", "3", "--scale-bits", "16"], "--scale-bits: expected 8 with --bits"),
        (["--bits", "3", "--op", "matmulnbits"], "--op: expected dualbinary with --bits"),
        (["--size", "1MB", "--embedding-bits", "16"], "--embedding-bits: expected 2, 3, 4, 8 with --size"),
        (["--size", "much"], "--size: expected a number of bytes"),
        (["--size", "1kB"], "what is not quantized alone"),
        (["--bits", "0.5"], "--bits: expected above 1 and at most 8.5"),
        (["--calibrate", "quick", "--op", "matmulnbits"], "--op: expected dualbinary with --calibrate quick alone"),
        (["--calibrate", "quick", "--target", "cuda"], "--target: expected cpu with --calibrate quick alone"),
        (["--calibrate", "quick", "--scale-bits", "16"], "--scale-bits: expected 8 with --calibrate quick alone"),
        (["--calibrate", "quick", "--planes", "4", "--op", "matmulnbits"], "or add --levels even"),
        (["--calibrate", "fast", "--op", "dequantizelinear"], "--op: expected dualbinary with --calibrate fast"),
    ],
)
def test_wishes_that_contradict_are_refused(pristine_model, tmp_path, capfd, arguments, message):
    assert main([str(pristine_model("llama")), str(tmp_path / "model.onnx"), *arguments]) == 2
    assert message in capfd.readouterr().err
