"""`make gpu-check` without a GPU, emulated, and where one is claimed to be; and the compiler of `make cuda`."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dualbinary import DualBinaryError, InputError
from tools import build_cuda, gpu_check
from tools.gpu_check import FAIL, PASS, SKIP, Check, Session

JUNIT = """<testsuites><testsuite>
<testcase classname="tests.a" name="good" time="2.5"/>
<testcase classname="tests.a" name="absent" time="0"><skipped message="no onnxruntime-gpu"/></testcase>
<testcase classname="tests.b" name="bad" time="1"><failure message="x"/></testcase>
<testcase classname="tests.c" name="absent" time="0"><skipped message="no CUDA device"/></testcase>
</testsuite></testsuites>"""


def program(folder: Path, name: str, script: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def path(tmp_path, monkeypatch) -> Path:
    """A folder that is before all others on PATH, which is without what it shadows."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.delenv("CUDACXX", raising=False)
    monkeypatch.setattr(gpu_check, "LOGS", tmp_path / "logs")
    return folder


def test_without_a_gpu_it_says_so_and_fails(path, capsys):
    program(path, "nvidia-smi", "echo NVIDIA-SMI has failed; exit 9")
    assert gpu_check.main([]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: no NVIDIA GPU (NVIDIA-SMI has failed), so nothing was checked")
    assert error.count("\n") == 1
    assert gpu_check.main(["--json"]) == 1
    assert capsys.readouterr().out == ""


def test_the_device_is_the_first_one(path):
    program(path, "nvidia-smi", "echo 'NVIDIA H100, 9.0, 81559 MiB, 580.1'; echo 'NVIDIA A100, 8.0, 40960 MiB, 580.1'")
    assert gpu_check.gpu() == {
        "name": "NVIDIA H100",
        "compute_capability": "9.0",
        "memory": "81559 MiB",
        "driver": "580.1",
    }


def test_rows_of_tests_tell_passed_failed_and_skipped(tmp_path):
    report = tmp_path / "tests.xml"
    report.write_text(JUNIT)
    rows = list(gpu_check.test_rows(report, Check("tests", FAIL, 9, "1 failed")))
    assert [(row.name, row.result) for row in rows] == [
        ("tests of tests.a", PASS),
        ("tests of tests.b", FAIL),
        ("tests of tests.c", SKIP),
        ("tests", FAIL),
    ]
    assert rows[0].detail == "1 passed, 0 failed, 1 skipped: no onnxruntime-gpu"
    assert rows[0].seconds == 2.5
    assert rows[3].detail == "1 failed"


def test_tests_that_were_all_skipped_are_a_failure(tmp_path):
    report = tmp_path / "tests.xml"
    report.write_text("\n".join(line for line in JUNIT.splitlines() if "tests.a" not in line and "tests.b" not in line))
    last = list(gpu_check.test_rows(report, Check("tests", PASS, 9, "1 skipped")))[-1]
    assert (last.result, last.detail) == (FAIL, "no test ran on the GPU")


def test_a_machine_with_a_gpu_runs_every_step_and_one_failure_decides(path, tmp_path, capsys, monkeypatch):
    """The steps are stand-ins, but for how they are called, what they leave, and how their ends are read."""
    library = tmp_path / "library.so"
    facts = {"library": str(library), "kernels": [{"name": "k"}], "devices": [1]}
    verdict = {"aim": "fast", "verdict": "PASS", "detail": "d"}
    (tmp_path / "tests.xml").write_text("\n".join(line for line in JUNIT.splitlines() if "tests.b" not in line))
    program(path, "nvidia-smi", "echo 'NVIDIA H100, 9.0, 81559 MiB, 580.1'")
    program(path, "compute-sanitizer", 'echo "========= ERROR SUMMARY: 3 errors"; [ $2 != racecheck ]')
    python = f"""case "$*" in
    *build_cuda*) echo compiling; echo '{json.dumps(facts)}';;
    *"-m pytest"*) cp {tmp_path}/tests.xml "$(echo "$*" | sed s/.*--junitxml=//)";;
    *cuda.report*) echo '{json.dumps({"verdicts": [verdict]})}';;
    *) echo "$DUALBINARY_CUDA_LIBRARY";;
    esac"""
    session = Session(emulated=False, timeout=60, logs=tmp_path / "logs", python=program(path, "python", python))
    monkeypatch.setattr(gpu_check, "Session", lambda *arguments: session)
    monkeypatch.setattr(gpu_check, "onnxruntime", lambda session: Check("onnxruntime-gpu", PASS, 0, "1.31.1"))
    assert gpu_check.main(["--json"]) == 1
    printed = capsys.readouterr()
    rows = {row["name"]: row for row in json.loads(printed.out)["checks"]}
    assert {name: row["result"] for name, row in rows.items()} == {
        "device": PASS,
        "build": PASS,
        "onnxruntime-gpu": PASS,
        "products": PASS,
        "tests of tests.a": PASS,
        "tests of tests.c": SKIP,
        "tests": PASS,
        "memcheck": PASS,
        "racecheck": FAIL,
        "synccheck": PASS,
        "benchmark": PASS,
        "aim: fast": PASS,
        "same tokens as the CPU": PASS,
        "whole models": PASS,
    }
    assert rows["build"]["detail"] == "architecture 90: k"
    assert rows["products"]["detail"] == str(library)
    assert rows["racecheck"]["detail"].startswith("ERROR SUMMARY: 3 errors")
    assert "1 of 14 checks failed: racecheck" in printed.err


def test_a_step_that_does_not_end_is_a_failure(path, tmp_path):
    session = Session(emulated=True, timeout=0.2, logs=tmp_path)
    check, output = session.child("slow", program(path, "slow", "echo begun; exec sleep 20"))
    assert check.result == FAIL
    assert check.detail.startswith("no end after 0 seconds")
    assert "begun" in output


def test_steps_that_no_time_is_left_for_fail_without_being_run(path, tmp_path):
    session = Session(emulated=True, timeout=60, logs=tmp_path, deadline=0)
    check, output = session.child("late", program(path, "late", f"touch {tmp_path}/ran"))
    assert (check.result, check.detail, output) == (FAIL, "no time was left for it", "")
    assert not (tmp_path / "ran").exists()


def test_rows_are_printed_as_they_come(path, tmp_path, capsys, monkeypatch):
    def stopped(session: Session, full: bool):
        yield Check("device", PASS, 0, "NVIDIA H200")
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu_check, "checks", stopped)
    assert gpu_check.main([]) == 130
    assert "| device | pass | 0 | NVIDIA H200 |\n" in capsys.readouterr().err


def test_offline_nothing_is_downloaded(path, tmp_path, monkeypatch):
    """Every step that runs is a stand-in that fails where it is asked for pip."""
    program(path, "nvidia-smi", "echo 'NVIDIA H200, 9.0, 143771 MiB, 580.1'")
    facts = {"library": str(tmp_path / "library.so"), "kernels": [{"name": "k"}], "devices": [1]}
    python = f"""case "$*" in *pip*|*venv*) touch {tmp_path}/asked;; *build_cuda*) echo '{json.dumps(facts)}';;
    *) echo '{json.dumps({"verdicts": []})}';; esac"""
    session = Session(False, 60, tmp_path, offline=True, python=program(path, "python", python))
    rows = {row.name: row for row in gpu_check.checks(session, full=False)}
    assert not (tmp_path / "asked").exists()
    assert rows["products"].result == PASS
    assert [(name, row.detail) for name, row in rows.items() if row.result == SKIP and row.detail == "offline"] == [
        ("onnxruntime-gpu", "offline"),
        ("whole models", "offline"),
    ]


def test_offline_no_compiler_is_downloaded(path, monkeypatch):
    monkeypatch.setattr(build_cuda, "installed_compiler", lambda: pytest.fail("was downloaded"))
    with pytest.raises(InputError, match=r"no nvcc 13 on PATH: name one by CUDACXX"):
        build_cuda.compiler(offline=True)


def test_every_file_with_a_test_for_a_gpu_is_run():
    folder = gpu_check.ROOT / "tests"
    marked = [path for path in folder.rglob("test_*.py") if re.search(r"pytest\.mark\.gpu\b", path.read_text())]
    assert {str(path.relative_to(gpu_check.ROOT)) for path in marked} == set(gpu_check.GPU_TESTS)


def test_the_kernels_are_configured_without_headers_of_onnx_runtime(tmp_path):
    """Emulated, as there may be no nvcc; nothing that a user has is looked at, and npm would fail."""
    programs = os.pathsep.join([str(tmp_path), str(Path(sys.executable).parent), "/usr/bin", "/bin"])
    program(tmp_path, "npm", "exit 1")
    environment = {"PATH": programs, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    options = ["-DDUALBINARY_CPU=OFF", "-DDUALBINARY_CUDA_EMULATED=ON", f"-DPython3_EXECUTABLE={sys.executable}"]
    command = ["cmake", "-S", str(gpu_check.ROOT), "-B", str(tmp_path / "build"), *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_emulated_it_runs_what_it_can(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gpu_check, "LOGS", tmp_path / "logs")
    assert gpu_check.main(["--emulated"]) == 0
    printed = capsys.readouterr()
    lines = [line for line in printed.out.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert "nothing ran on a GPU" in printed.err


NVCC = "echo 'Cuda compilation tools, release {}, V{}.88'"


def test_nvcc_on_the_path_is_taken_where_it_is_of_the_right_version(path, monkeypatch):
    monkeypatch.setattr(build_cuda, "installed_compiler", lambda: Path("from-pypi"))
    nvcc = program(path, "nvcc", NVCC.format("13.1", "13.1"))
    assert build_cuda.compiler() == nvcc
    program(path, "nvcc", NVCC.format("12.8", "12.8"))
    assert build_cuda.compiler() == Path("from-pypi")
    nvcc.unlink()
    assert build_cuda.compiler() == Path("from-pypi")


@pytest.mark.parametrize(("version", "words"), [("12.8", "got version 12"), (None, "no such program")])
def test_a_named_compiler_of_another_version_is_refused(path, monkeypatch, version, words):
    if version:
        program(path, "my-nvcc", NVCC.format(version, version))
    monkeypatch.setenv("CUDACXX", "my-nvcc")
    with pytest.raises(InputError, match=rf"CUDACXX=my-nvcc: expected nvcc 13, {words}; unset it"):
        build_cuda.compiler()


def test_a_wrong_architecture_is_named(capsys):
    assert build_cuda.main(["--architectures", "sm_90"]) == 2
    assert "expected numbers such as 90, got sm_90" in capsys.readouterr().err


def test_a_failing_step_of_the_build_is_named(path):
    with pytest.raises(DualBinaryError, match=r"broken` failed with exit code 3"):
        build_cuda.call([program(path, "broken", "exit 3")])
