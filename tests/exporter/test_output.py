"""An export's files appear together or not at all, and older files survive."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dualbinary import InputError
from dualbinary.files import staging
from exporter import pipeline
from exporter.__main__ import main
from exporter.options import ExportOptions
from exporter.pipeline import export
from tests.support.quick_fit import QUICK

FILES = {"model.onnx", "model.onnx.data", "genai_config.json", "config.json", "generation_config.json"}
FILES |= {"export_report.json"}


@pytest.fixture
def model_dir(pristine_model):
    return pristine_model("llama")


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_all_files_appear(model_dir, tmp_path):
    export(model_dir, tmp_path / "model.onnx", ExportOptions(**QUICK))

    assert set(contents(tmp_path)) == FILES


def test_the_same_export_again_gives_the_same_bytes(model_dir, tmp_path):
    for folder in ("first", "second"):
        export(model_dir, tmp_path / folder / "model.onnx", ExportOptions(**QUICK))

    assert contents(tmp_path / "first") == contents(tmp_path / "second")


@pytest.mark.parametrize("fallback", ["ort4", "none"])
def test_library_lies_beside_the_model_and_genai_is_told_where_nothing_else_can_run(
    model_dir, tmp_path, library, fallback
):
    export(model_dir, tmp_path / "model.onnx", ExportOptions(fallback=fallback, **QUICK), library=library)

    assert (tmp_path / library.name).read_bytes() == library.read_bytes()
    options = json.loads((tmp_path / "genai_config.json").read_text())["model"]["decoder"]["session_options"]
    assert options.get("custom_ops_library") == (library.name if fallback == "none" else None)


def test_existing_files_are_not_replaced_unless_forced(model_dir, tmp_path):
    (tmp_path / "config.json").write_text("mine")

    with pytest.raises(InputError, match=r"already holds config\.json"):
        export(model_dir, tmp_path / "model.onnx", ExportOptions(**QUICK))
    assert contents(tmp_path) == {"config.json": b"mine"}

    export(model_dir, tmp_path / "model.onnx", ExportOptions(**QUICK), force=True)
    assert set(contents(tmp_path)) == FILES


@pytest.mark.parametrize("name", ["tokenizer.model", "vocab.json", "tokenizer_config.json", "libdualbinary.so"])
def test_files_that_another_export_would_have_are_not_removed_unless_forced(model_dir, tmp_path, name):
    (tmp_path / name).write_text("mine")

    with pytest.raises(InputError, match=f"already holds {name}"):
        export(model_dir, tmp_path / "model.onnx", ExportOptions(**QUICK))
    assert contents(tmp_path) == {name: b"mine"}


def test_files_of_another_model_do_not_stay_beside_a_new_one(model_dir, tmp_path):
    for name in ("chat_template.jinja", "tokenizer.json", "notes.txt"):
        (tmp_path / name).write_text("of another model")

    export(model_dir, tmp_path / "model.onnx", ExportOptions(**QUICK), force=True)

    assert set(contents(tmp_path)) == FILES | {"notes.txt"}


def test_directory_in_the_way_is_not_removed(model_dir, tmp_path):
    (tmp_path / "config.json").mkdir()

    with pytest.raises(InputError, match="not a file, and in the way"):
        export(model_dir, tmp_path / "model.onnx", ExportOptions(**QUICK), force=True)


@pytest.mark.parametrize("moment", ["data", "graph", "move"])
def test_failure_leaves_the_older_export_as_it_was(model_dir, kept, tmp_path, monkeypatch, moment):
    shutil.copytree(kept("llama")[1].parent, tmp_path, dirs_exist_ok=True)
    before = contents(tmp_path)

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    if moment == "data":
        monkeypatch.setattr(pipeline, "write_data_file", fail)
    elif moment == "graph":
        monkeypatch.setattr(pipeline.onnx, "save", fail)
    else:
        real, calls = os.replace, []

        def replace(source, target):
            calls.append(source)
            if len(calls) == 6:
                fail()
            real(source, target)

        monkeypatch.setattr(staging.os, "replace", replace)

    with pytest.raises(OSError, match="No space"):
        export(model_dir, tmp_path / "model.onnx", ExportOptions(planes=2, levels="even"), force=True)
    assert contents(tmp_path) == before


def test_model_directory_is_not_an_output_directory(tiny_model):
    model_dir = tiny_model("llama")
    before = contents(model_dir)

    with pytest.raises(InputError, match="lies in the model directory"):
        export(model_dir, model_dir / "model.onnx", ExportOptions(**QUICK), force=True)
    assert contents(model_dir) == before


@pytest.mark.parametrize("name", ["model", "model.ort", "model.onnx.data"])
def test_output_must_be_named_onnx(model_dir, tmp_path, name):
    with pytest.raises(InputError, match=r"must end in \.onnx"):
        export(model_dir, tmp_path / name, ExportOptions(**QUICK))


def test_directory_that_cannot_be_written_is_one_error(model_dir, tmp_path, capfd):
    (tmp_path / "file").write_text("not a directory")

    assert main([str(model_dir), str(tmp_path / "file" / "model.onnx")]) == 2
    assert "not a directory that can be written" in capfd.readouterr().err


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc, which even root cannot write to")
def test_read_only_directory_is_one_error(model_dir, capfd):
    capfd.readouterr()

    assert main([str(model_dir), "/proc/dualbinary/model.onnx", "--quiet"]) in (1, 2)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: /proc")


def test_too_little_space_is_noticed_before_work(model_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())

    with pytest.raises(InputError, match="MB needed, 0 MB free"):
        export(model_dir, tmp_path / "out" / "model.onnx", ExportOptions(**QUICK))
    assert not (tmp_path / "out").exists()


def test_disk_that_fills_up_is_one_error(model_dir, tmp_path, capfd):
    """A file-size limit stands in for the disk: writing fails in the middle of the data file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        code = main([str(model_dir), str(tmp_path / "out" / "model.onnx"), "--quiet"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert code == 1
    errors = capfd.readouterr().err
    assert errors.splitlines()[-1].startswith(f"error: {tmp_path / 'out'}: File too large; raise the limit")
    assert "Traceback" not in errors
    assert not (tmp_path / "out").exists()


def test_interrupted_export_leaves_nothing(tmp_path, model_dir):
    """Of one process, which begins again after the first signal: most of its time is that of its imports."""
    code = (
        "import os, signal, sys, time, exporter.stored.tensor_jobs as jobs\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
        "from exporter.__main__ import main\n"
        "real = jobs.fit\n"
        "def slow(*args, **kwargs):\n"
        "    os.write(1, b'working\\n')  # one call, as two threads may get here at once\n"
        "    time.sleep(0.3)\n"
        "    return real(*args, **kwargs)\n"
        "jobs.fit = slow\n"
        "print(main(sys.argv[1:]), flush=True)\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    out = tmp_path / "out" / "model.onnx"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(model_dir), str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    process.send_signal(signal.SIGINT)
    assert next(line for line in process.stdout if line != "working\n") == f"{128 + signal.SIGINT}\n"
    assert not out.parent.exists()
    assert process.stdout.readline() == "working\n"
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)

    assert process.returncode == 128 + signal.SIGTERM
    assert [line for line in errors.splitlines() if "not written" in line] == [
        f"interrupted; {out} was not written",
        f"terminated; {out} was not written",
    ]
    assert errors.splitlines()[-1] == f"terminated; {out} was not written"
    assert "Traceback" not in errors
    assert not out.parent.exists()


def test_what_a_killed_export_left_is_removed_by_the_next(model_dir, tmp_path):
    abandoned = tmp_path / ".dualbinary-export-999999999"
    abandoned.mkdir()
    (abandoned / "model.onnx.data").write_bytes(b"half")

    (abandoned / "replaced").mkdir()
    (abandoned / "replaced" / "older.onnx").write_bytes(b"moved aside when the export was killed")

    export(model_dir, tmp_path / "model.onnx", ExportOptions(**QUICK))

    assert not abandoned.exists()
    assert (tmp_path / "older.onnx").exists()
