"""`python -m runtime_ext doctor`: its answers as a command; tests/runtime/test_setups.py has what it finds."""

import json
import subprocess
import sys

import pytest

from runtime_ext.__main__ import main
from runtime_ext.library import ISA_VARIABLE, LIBRARY_VARIABLE


def test_a_machine_where_all_is_right_ends_with_0(capsys):
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["onnxruntime", "library", "contract", "kernels"]


def test_something_wrong_ends_with_1_and_names_it(tiny_copy, capsys):
    (tiny_copy.parent / "tokenizer.json").unlink()
    assert main(["doctor", str(tiny_copy)]) == 1
    answer = capsys.readouterr()
    assert "✗ tokenizer" in answer.out
    assert answer.err.startswith("error: 1 of ")
    assert "copy the tokenizer" in answer.err


def test_json_is_one_object_with_every_finding(capsys, monkeypatch):
    monkeypatch.setenv(ISA_VARIABLE, "scalar")
    assert main(["doctor", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is True
    assert {finding["state"] for finding in answer["findings"]} == {"good", "note"}
    assert {finding["check"]: finding["state"] for finding in answer["findings"]}["kernels"] == "note"


@pytest.mark.parametrize("command", [("doctor", "out.onnx"), ("generate", "out.onnx", "--prompt", "x")])
def test_a_host_without_onnxruntime_gets_a_sentence(command, tmp_path):
    (tmp_path / "onnxruntime.py").write_text("raise ModuleNotFoundError('gone', name='onnxruntime')")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from runtime_ext.__main__ import main; "
    code += f"sys.exit(main({list(command)!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "pip install" in done.stderr


def test_help_imports_neither_onnxruntime_nor_a_command():
    code = "import sys; from runtime_ext.__main__ import main\ntry: main(['--help'])\nexcept SystemExit: "
    code += "sys.exit('onnxruntime' in sys.modules or 'runtime_ext.generate' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_a_library_that_was_cut_off_is_a_sentence_and_not_a_crash(tmp_path, monkeypatch, capsys):
    from runtime_ext.library import library_path

    path = tmp_path / "libdualbinary.so"
    content = library_path().read_bytes()
    path.write_bytes(content[: len(content) // 2])
    monkeypatch.setenv(LIBRARY_VARIABLE, str(path))
    assert main(["info"]) == 2
    assert "bytes were cut off: copy it again" in capsys.readouterr().err
