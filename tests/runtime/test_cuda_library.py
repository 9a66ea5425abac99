"""Finding and describing the library of CUDA kernels: none, a stand-in with its C interface, and damaged ones."""

import importlib.util
import json
import shutil
import subprocess

import pytest

import runtime_ext
from dualbinary import InputError, digest
from runtime_ext.__main__ import main
from runtime_ext.cuda_library import cuda_library_path, describe_cuda

COMPILER = shutil.which("cc")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler")
FACTS = {"version": "0.1.0", "digest": digest(), "emulated": True, "architectures": [90], "kernels": []}
OTHERS = ("weight_create", "weight_destroy", "weight_bytes", "kernel", "workspace", "multiply")
FACTS |= {"devices": [{"index": 0, "name": "a GPU", "compute_capability": 90}], "error": None}


@pytest.fixture
def no_cuda(monkeypatch, tmp_path):
    """A build without CUDA: nothing is named, and nothing lies beside the library."""
    monkeypatch.delenv("DUALBINARY_CUDA_LIBRARY", raising=False)
    library = shutil.copy(runtime_ext.library_path(), tmp_path / runtime_ext.library_path().name)
    monkeypatch.setenv("DUALBINARY_LIBRARY", str(library))
    return tmp_path


@pytest.fixture
def stand_in(tmp_path):
    """Build a library whose description is `facts`, or which fails with `message`."""

    def build(facts=None, message=None):
        text = json.dumps(json.dumps(facts))  # JSON's escapes are C's
        body = f"return {json.dumps(message)};" if message else f"*json = {text}; return 0;"
        source = f"const char* dualbinary_cuda_describe(const char** json) {{ {body} }}\n"
        source += "".join(f"void dualbinary_cuda_{name}(void) {{}}\n" for name in OTHERS)
        path = tmp_path / "stand_in.so"
        command = [str(COMPILER), "-shared", "-fPIC", "-x", "c", "-o", str(path), "-"]
        subprocess.run(command, input=source, text=True, check=True)
        return path

    return build


def test_a_build_without_cuda_has_none_and_that_is_no_error(no_cuda, capsys):
    assert cuda_library_path() is None
    assert describe_cuda() is None
    assert main(["info"]) == 0
    assert "no CUDA kernels in this build" in capsys.readouterr().out
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["cuda"] is None
    assert "CPUExecutionProvider" in facts["onnxruntime"]["providers"]


@needs_compiler
def test_the_library_beside_the_other_one_describes_itself(no_cuda, stand_in, capsys):
    path = stand_in(FACTS).rename(no_cuda / "libdualbinary_cuda.so")
    assert describe_cuda() == {"library": str(path), **FACTS}
    assert main(["info"]) == 0
    assert "a GPU" in capsys.readouterr().out


@needs_compiler
def test_the_variable_names_another_file(monkeypatch, stand_in):
    path = stand_in(FACTS)
    monkeypatch.setenv("DUALBINARY_CUDA_LIBRARY", str(path))
    assert cuda_library_path() == path


@needs_compiler
def test_a_library_of_another_contract_is_refused(monkeypatch, stand_in):
    monkeypatch.setenv("DUALBINARY_CUDA_LIBRARY", str(stand_in(FACTS | {"digest": "0" * 16})))
    with pytest.raises(InputError, match=rf"built from contract 0{{16}}, this package has {digest()}"):
        describe_cuda()


@needs_compiler
def test_its_own_complaint_is_passed_on(monkeypatch, stand_in):
    monkeypatch.setenv("DUALBINARY_CUDA_LIBRARY", str(stand_in(message="out of memory")))
    with pytest.raises(InputError, match="out of memory"):
        describe_cuda()


def test_a_name_that_leads_nowhere_is_refused(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("DUALBINARY_CUDA_LIBRARY", str(tmp_path / "absent.so"))
    assert main(["info"]) == 2
    assert "absent.so: no such file" in capsys.readouterr().err


def test_a_foreign_library_is_refused(monkeypatch):
    foreign = importlib.util.find_spec("_ctypes")
    assert foreign is not None and foreign.origin is not None
    monkeypatch.setenv("DUALBINARY_CUDA_LIBRARY", foreign.origin)
    with pytest.raises(InputError, match="is not a usable CUDA library"):
        describe_cuda()
