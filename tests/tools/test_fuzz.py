"""`make fuzz`: its targets for a moment, without libFuzzer; and what its command says."""

import json
import shutil
import sys

import pytest

from dualbinary import DualBinaryError
from tests.support.fuzz_programs import ROOT, build_programs, call
from tools.fuzz import cpp, python_readers
from tools.fuzz.__main__ import main

INPUTS = 1000  # of each target; a defect of one call in a hundred is met, and it takes a second or two
# Of a whole library with sanitizers, which take five times as long.
INPUTS_SLOW = 20_000
TARGETS = cpp.targets()

linux_compiler = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("c++") is None, reason="needs a C++ compiler that has sanitizers"
)


@pytest.fixture(scope="module")
def programs():
    return build_programs(TARGETS)


@linux_compiler
@pytest.mark.parametrize("target", TARGETS)
def test_a_target_runs_its_seeds_and_numbered_inputs(programs, target, tmp_path):
    cpp.write_seeds(tmp_path)
    out = call(programs[target], *sorted(tmp_path.iterdir()), f"-runs={INPUTS}")
    assert out.split() == [str(INPUTS), "inputs", "done"]


@linux_compiler
@pytest.mark.slow
def test_no_sanitizer_reports_anything_of_the_library(tmp_path):
    build = ROOT / "build" / "fuzz-standalone"
    python = f"-DPython3_EXECUTABLE={sys.executable}"
    call("cmake", "-S", ROOT, "--preset", "fuzz", "-B", build, "-DCMAKE_CXX_COMPILER=c++", python)
    call("cmake", "--build", build, "--parallel", "2", "--target", "dualbinary_fuzz")
    for target in TARGETS:
        call(build / f"fuzz_{target}", f"-runs={INPUTS_SLOW}", "-seed=7")


def test_a_defect_ends_the_program(tmp_path):
    # Otherwise the tests above could not fail.
    (tmp_path / "target.cc").write_text(
        '#include "defect.h"\n'
        "#include <cstddef>\n#include <cstdint>\n"
        'extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {\n'
        '  if (size > 3 && data[2] == 7) dualbinary::fuzz::defect("seven");\n  return 0;\n}\n'
    )
    sources = [tmp_path / "target.cc", cpp.SOURCES / "standalone.cc"]
    call("c++", "-std=c++20", f"-I{cpp.SOURCES}", *sources, "-o", tmp_path / "target")
    with pytest.raises(pytest.fail.Exception, match="defect: seven"):
        call(tmp_path / "target", "-runs=20000")


def test_seeds_are_the_same_each_time(tmp_path):
    for name in ("one", "two"):
        cpp.write_seeds(tmp_path / name)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(names) == cpp.SEEDS
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)


def test_the_list_has_every_target(capsys):
    assert main(["--list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"cpp": TARGETS, "python": python_readers.targets()}
    assert {"matmul_op", "capi_weight"} <= set(TARGETS)


def test_a_target_that_is_not_there_is_refused(capsys):
    assert main(["--target", "matmul_op", "nothing"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --target: expected some of attention_op, ")
    assert error.endswith(", got nothing\n")


def test_without_clang_it_names_the_way_out(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert main(["--target", "matmul_op", "--seconds", "1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: clang++: not found")
    assert "install it (Debian: clang and libclang-rt-dev)" in error


@pytest.mark.parametrize("seconds", ["0", "-1", "soon", "1.5"])
def test_seconds_are_a_whole_number(capsys, seconds):
    with pytest.raises(SystemExit) as ended:
        main(["--seconds", seconds])
    assert ended.value.code == 2
    assert f"expected a whole number of seconds, 1 or more, got {seconds}" in capsys.readouterr().err


def test_a_python_target_that_does_not_answer_is_named():
    with pytest.raises(DualBinaryError, match="no_such_reader: ended with"):
        python_readers.run("no_such_reader", 1)
