"""`python -m exporter`: options, messages, JSON."""

import json
import signal
import subprocess

import onnx
import pytest

from exporter.__main__ import main


def test_json_is_one_object_on_standard_output(pristine_model, tmp_path, capfd):
    out = tmp_path / "out" / "model.onnx"

    code = main([str(pristine_model("llama")), str(out), "--json", "--check", "--planes", "4"])

    assert code == 0
    summary = json.loads(capfd.readouterr().out)
    assert summary["out"] == str(out)
    assert summary["check"]["passed"] is True
    assert summary["check"]["kernel"] == "library"
    assert summary["file_bytes"] == out.with_suffix(".onnx.data").stat().st_size


def test_default_is_four_even_planes_with_offset_and_says_the_way_to_two_bits(pristine_model, tmp_path, capfd):
    assert main([str(pristine_model("llama")), str(tmp_path / "model.onnx")]) == 0

    assert "; for about 2.5 bits per weight use --calibrate fast|best" in capfd.readouterr().err
    options = json.loads((tmp_path / "export_report.json").read_text())
    assert options["layers"][0]["bits_per_weight"] == 4 + 2 * 8 / 32 + 2 * 16 / 128


def test_scales_of_8_bits_show_in_the_report_and_the_answer(pristine_model, tmp_path, capfd):
    arguments = [str(pristine_model("llama")), str(tmp_path / "model.onnx"), "--planes", "4", "--json"]
    assert main([*arguments, "--scale-bits", "8"]) == 0

    report = json.loads((tmp_path / "export_report.json").read_text())
    assert report["options"]["scale_bits"] == 8
    assert report["layers"][0]["bits_per_weight"] == 4 + 5 * 8 / 64 + 5 * 16 / 128
    assert json.loads(capfd.readouterr().out)["bits_per_weight"] == report["totals"]["bits_per_weight"]


def test_two_planes_without_training_warn(pristine_model, tmp_path, capfd):
    assert main([str(pristine_model("llama")), str(tmp_path / "model.onnx"), "--planes", "2"]) == 0

    assert "need training" in capfd.readouterr().err


def test_stock_operators_are_not_sent_to_planes_that_they_do_not_take(pristine_model, tmp_path, capfd):
    out = str(tmp_path / "model.onnx")
    assert main([str(pristine_model("llama")), out, "--op", "matmulnbits"]) == 0
    error = capfd.readouterr().err
    assert "are fitted without data" in error and "--calibrate" not in error


def test_disagreement_fails_the_command(pristine_model, tmp_path, capfd, monkeypatch):
    import exporter.verify as verify

    check = verify.check

    def check_damaged(result, out, library, tokens):
        """Double the frequencies of the rotation in the graph, then check."""
        model = onnx.load(out, load_external_data=False)
        found = [value for value in model.graph.initializer if "frequencies" in value.name]
        for value in found:
            value.CopyFrom(onnx.numpy_helper.from_array(2 * onnx.numpy_helper.to_array(value), value.name))
        onnx.save(model, out)
        assert found
        return check(result, out, library, tokens)

    monkeypatch.setattr(verify, "check", check_damaged)
    out = tmp_path / "out" / "model.onnx"

    assert main([str(pristine_model("llama")), str(out), "--check"]) == 1
    assert "disagree" in capfd.readouterr().err
    assert out.exists()


def test_check_that_cannot_be_made_ends_in_one_line(pristine_model, tmp_path, capfd, monkeypatch):
    def fail(*_):
        raise RuntimeError("no shape\nfits")

    monkeypatch.setattr("exporter.verify.check", fail)

    assert main([str(pristine_model("llama")), str(tmp_path / "model.onnx"), "--check"]) == 1
    assert "--check could not compare it with PyTorch (RuntimeError: no shape fits)" in capfd.readouterr().err


def test_architecture_without_a_test_is_pointed_out(pristine_model, tmp_path, capfd, monkeypatch):
    import exporter.pipeline as pipeline

    monkeypatch.setattr(pipeline, "VERIFIED", frozenset())

    assert main([str(pristine_model("llama")), str(tmp_path / "a" / "model.onnx")]) == 0
    said = capfd.readouterr()
    assert "no test compares it with transformers" in said.err
    assert "check passed" in said.out

    assert main([str(pristine_model("llama")), str(tmp_path / "b" / "model.onnx"), "--no-check"]) == 0
    assert "check passed" not in capfd.readouterr().out


@pytest.mark.parametrize(
    ("fallback", "said"), [("ort4", "runs by its fallback function"), ("none", "runs only where a host registers one")]
)
def test_library_that_cannot_be_used_is_said_with_the_reason(
    pristine_model, tmp_path, capfd, monkeypatch, fallback, said
):
    monkeypatch.setenv("DUALBINARY_LIBRARY", "/nowhere/libdualbinary.so")

    words = ["--fallback", fallback, "--planes", "4"]
    assert main([str(pristine_model("llama")), str(tmp_path / "model.onnx"), *words]) == 0
    error = capfd.readouterr().err
    assert "/nowhere/libdualbinary.so: no such file" in error
    assert said in error


@pytest.mark.usefixtures("calibration_here")
def test_calibration_that_fails_says_so_and_exports_nothing(pristine_model, tmp_path, capfd):
    out = tmp_path / "out" / "model.onnx"

    # The preset's windows are longer than what the tiny model was made for.
    with pytest.raises(SystemExit, match="2"):
        main([str(pristine_model("llama")), str(out), "--calibrate", "fast"])

    assert "--length 512" in capfd.readouterr().err
    assert not out.exists()


def test_calibrate_trains_and_exports_what_it_made(pristine_model, tmp_path, capfd, monkeypatch):
    real = subprocess.run

    def with_a_small_configuration(command, **options):
        small = "--length 32 --init-windows 4 --block-windows 4 --block-held-out 2 --e2e-steps 2 --e2e-held-out 2"
        return real([*command, *small.split(), "--generate", "8"], **options)

    monkeypatch.setattr(subprocess, "run", with_a_small_configuration)
    out = tmp_path / "out" / "model.onnx"
    arguments = [str(pristine_model("llama")), str(out), "--calibrate", "best", "--check", "--json"]
    assert main(arguments) == 0
    summary = json.loads(capfd.readouterr().out)
    assert 2 < summary["bits_per_weight"] <= 2.5
    assert summary["check"]["passed"]

    out.unlink()
    assert main(arguments) == 2  # half an hour of work is not done again without being asked for
    assert "model-checkpoint: holds what an earlier --calibrate, --bits or --size made" in capfd.readouterr().err


@pytest.mark.parametrize("made", [False, True])
def test_an_interruption_says_the_command_that_goes_on(pristine_model, tmp_path, capfd, monkeypatch, made):
    out, checkpoint = tmp_path / "model.onnx", tmp_path / "model-checkpoint"

    def interrupt(*_, **__):
        if made:
            checkpoint.mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr("exporter.__main__.calibrated", interrupt)
    before = signal.getsignal(signal.SIGINT)
    try:
        assert main([str(pristine_model("llama")), str(out), "--calibrate", "quick"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)

    said = capfd.readouterr().err
    assert ("the same command goes on" in said) == (not made)
    assert (f"python -m exporter {checkpoint} {out} goes on" in said) == made


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--planes", "0"], "--planes: expected auto or 1 to 8"),
        (["--planes", "9"], "--planes: expected auto or 1 to 8"),
        (["--group-size", "0"], "--group-size: expected a positive multiple of 16"),
        (["--group-size", "48"], "--group-size: expected a positive multiple of 32"),
        (["--fallback", "ort2"], "use --fallback ort4, or --accuracy-level 4"),
        (["--target", "cuda", "--layout", "neon"], "leave --layout out, or use --target cpu"),
        (["--text", "a.txt"], "--text is for --calibrate"),
        (["--check-tokens", "64", "--no-check"], "--check-tokens is for --check"),
        (["--calibrate", "fast", "--planes", "2"], "--calibrate fast decides the format"),
        (["--bundle-from", "dist"], "--bundle-from: expected no value without --bundle"),
        (
            ["--bundle", "all", "--layout-for", "transformersjs"],
            "--bundle: expected no value with --layout-for transformersjs",
        ),
    ],
)
def test_wrong_options_are_refused(pristine_model, tmp_path, capfd, arguments, message):
    assert main([str(pristine_model("llama")), str(tmp_path / "model.onnx"), *arguments]) == 2
    assert message in capfd.readouterr().err


@pytest.mark.parametrize(
    "option", ["--scale-bits", "--accuracy-level", "--dtype", "--embedding-bits", "--fallback", "--target"]
)
def test_unknown_choices_are_refused(tmp_path, option, capfd):
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path), str(tmp_path / "model.onnx"), option, "7"])
    assert option in capfd.readouterr().err


def test_help_names_every_option(capfd):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])

    text = capfd.readouterr().out
    for option in (
        "--planes",
        "--group-size",
        "--no-offset",
        "--calibrate",
        "--check",
        "--json",
        "--force",
        "--fallback",
    ):
        assert option in text
