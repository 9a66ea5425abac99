"""Finding, checking and describing the library, and forcing an ISA."""

import ctypes
import importlib.util
import os
import re
import subprocess
import sys

import onnxruntime as ort
import pytest

import runtime_ext
from dualbinary import InputError, digest
from runtime_ext import library
from runtime_ext.capi import Weight
from tests.support.problems import make_problem

ISAS = ["avx512", "avxvnni", "avx2", "i8mm", "neon", "scalar"]


def test_describe_reports_build_and_choice():
    facts = runtime_ext.describe()
    assert facts["digest"] == digest()
    assert facts["library"] == str(runtime_ext.library_path())
    names = [kernel["name"] for kernel in facts["kernels"]]
    assert len(set(names)) == len(names)
    available = {kernel["name"]: kernel for kernel in facts["kernels"] if kernel["available"]}
    for level, name in facts["chosen"].items():
        assert available[name]["accuracy_level"] <= int(level)


def test_a_missing_library_is_one_clear_error(monkeypatch, tmp_path):
    monkeypatch.setenv("DUALBINARY_LIBRARY", str(tmp_path / "absent.so"))
    with pytest.raises(InputError, match=r"absent\.so: no such file"):
        runtime_ext.library_path()


def test_a_library_that_was_never_built_says_how_to_build(monkeypatch, tmp_path):
    monkeypatch.delenv("DUALBINARY_LIBRARY", raising=False)
    monkeypatch.setattr(runtime_ext, "__path__", [str(tmp_path)])
    monkeypatch.setattr(library.site, "getsitepackages", list)
    monkeypatch.setattr(library.site, "getusersitepackages", lambda: str(tmp_path))
    monkeypatch.setattr(library.sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(InputError, match=r"pip install \."):
        runtime_ext.library_path()


def test_a_file_that_is_no_library_is_refused(monkeypatch, tmp_path):
    path = tmp_path / "libdualbinary.so"
    path.write_text("not a library")
    monkeypatch.setenv("DUALBINARY_LIBRARY", str(path))
    with pytest.raises(InputError, match="is not a usable dualbinary library"):
        runtime_ext.register(ort.SessionOptions())


def test_a_foreign_library_is_refused(monkeypatch):
    foreign = importlib.util.find_spec("_ctypes")
    assert foreign is not None and foreign.origin is not None
    monkeypatch.setenv("DUALBINARY_LIBRARY", foreign.origin)
    with pytest.raises(InputError, match="is not a usable dualbinary library"):
        runtime_ext.describe()


def test_a_loaded_library_that_genai_would_not_find_is_said(monkeypatch):
    monkeypatch.setenv("DUALBINARY_LIBRARY", str(runtime_ext.library_path()))
    monkeypatch.setattr("sys.platform", "darwin")  # where it goes by the name of its file
    with pytest.raises(InputError, match=r"not found again by the name libdualbinary\.so"):
        runtime_ext.genai_overlay()


def test_a_library_of_another_contract_is_refused_with_both_digests(monkeypatch):
    monkeypatch.setattr(library, "digest", lambda: "0123456789abcdef")
    with pytest.raises(InputError, match=f"{digest()}.*0123456789abcdef"):
        runtime_ext.register(ort.SessionOptions())


@pytest.mark.parametrize("isa", ISAS)
def test_a_forced_isa_is_taken_or_refused(monkeypatch, isa):
    kernels = runtime_ext.describe()["kernels"]
    here = {kernel["isa"] for kernel in kernels if kernel["available"]}
    monkeypatch.setenv("DUALBINARY_ISA", isa)
    problem = make_problem()
    if isa not in here:
        with pytest.raises(InputError, match=f"DUALBINARY_ISA={isa}.*available: .*scalar"):
            Weight(problem.planes, problem.scales, K=problem.K, group_size=problem.group_size)
        return
    with Weight(problem.planes, problem.scales, K=problem.K, group_size=problem.group_size) as weight:
        # These add to others, and have no kernel for few rows.
        expected = {"i8mm": "neon", "avxvnni": "avx2"}.get(isa, isa)
        assert {kernel["isa"] for kernel in kernels if kernel["name"] == weight.kernel} == {expected}
    assert runtime_ext.describe()["forced_isa"] == isa


def test_an_unknown_isa_is_refused_with_what_there_is(monkeypatch):
    monkeypatch.setenv("DUALBINARY_ISA", "mmx")
    with pytest.raises(InputError, match=r"DUALBINARY_ISA=mmx: .*available: .*scalar"):
        runtime_ext.describe()


def test_the_variable_works_from_outside():
    code = "import runtime_ext; print(*set(runtime_ext.describe()['chosen'].values()))"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "DUALBINARY_ISA": "scalar", "DUALBINARY_LIBRARY": str(runtime_ext.library_path())},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == "exact_f64_scalar"


@pytest.mark.parametrize("entry_point", ["RegisterCustomOps", "RegisterDualBinaryCustomOps"])
def test_a_runtime_that_is_too_old_gets_no_op_and_no_error(entry_point):
    # Then the model's own function serves the op. Such a runtime answers a request for its function table with NULL.
    asked = []
    get_api_type = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)

    class ApiBase(ctypes.Structure):
        _fields_ = [("GetApi", get_api_type), ("GetVersionString", ctypes.c_void_p)]

    base = ApiBase(get_api_type(lambda version: asked.append(version)), None)
    register = getattr(ctypes.CDLL(str(runtime_ext.library_path())), entry_point)
    register.restype = ctypes.c_void_p
    assert register(None, ctypes.byref(base)) is None
    assert asked == [17]


@pytest.mark.skipif(sys.platform != "linux", reason="reads an ELF symbol table with nm")
def test_only_the_interface_is_exported():
    command = ["nm", "--dynamic", "--defined-only", "--format=posix", str(runtime_ext.library_path())]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    symbols = {line.split()[0] for line in listing.splitlines()}
    foreign = {
        s for s in symbols if not s.startswith(("dualbinary_", "RegisterCustomOps", "RegisterDualBinaryCustomOps"))
    }
    assert not foreign


@pytest.mark.skipif(sys.platform != "linux", reason="reads an ELF file with readelf")
@pytest.mark.parametrize(
    ("option", "pattern"),
    [
        ("--segments", r"GNU_RELRO"),
        ("--segments", r"GNU_STACK +(0x[0-9a-f]+ +){5}RW +0x"),  # readable and writable, no code
        ("--dynamic", r"FLAGS_1.*NOW"),
        ("--dyn-syms", r"__stack_chk_fail"),
    ],
)
def test_the_library_is_hardened(option, pattern):
    command = ["readelf", "--wide", option, str(runtime_ext.library_path())]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.search(pattern, listing), listing


@pytest.mark.skipif(sys.platform != "linux", reason="asks for a library by its file's name, as dlopen() of Linux does")
def test_the_library_stays_when_a_host_unloads_it():
    # As ONNX Runtime's Java interface does when session options are closed, under sessions that go on.
    code = (
        "import ctypes, sys, _ctypes; library = ctypes.CDLL(sys.argv[1]); version = library.dualbinary_version\n"
        "version.restype = ctypes.c_char_p; _ctypes.dlclose(library._handle); print(version().decode())"
    )
    command = [sys.executable, "-c", code, str(runtime_ext.library_path())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == runtime_ext.describe()["version"]
