"""`dualbinary completion`: scripts of the command lines of all verbs, and what bash makes of them."""

import re
import subprocess
import sys

import pytest

from dualbinary import __main__ as command
from dualbinary.cli import completion
from dualbinary.errors import DualBinaryError

FLAG = re.compile(r"--[a-z][a-z0-9-]*")


@pytest.fixture(scope="module")
def scripts():
    return {shell: completion.script(shell) for shell in completion.SHELLS}


def completed(script, tmp_path, *words):
    """What bash offers for the last of `words`."""
    file = tmp_path / "script"
    file.write_text(script)
    line = " ".join(f"'{word}'" for word in ("dualbinary", *words))
    program = (
        f'source {file}; COMP_WORDS=({line}); COMP_CWORD={len(words)}; _shtab_dualbinary; echo "${{COMPREPLY[@]}}"'
    )
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)
    return done.stdout.split()


def test_bash_completes_verbs_options_values_and_files(scripts, tmp_path):
    (tmp_path / "model.onnx").touch()
    script = scripts["bash"]
    assert set(completed(script, tmp_path, "")) >= set(command.VERBS)
    assert completed(script, tmp_path, "generate", "--spec") == ["--speculate"]
    assert completed(script, tmp_path, "chat", "--his") == ["--history"]
    assert completed(script, tmp_path, "quantize", "--preset", "pa") == ["paper"]
    assert completed(script, tmp_path, "report", "--ana") == ["--analyze"]
    assert completed(script, tmp_path, "bench", "mod") == ["model.onnx"]


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_every_option_of_every_verb_is_in_a_script(scripts, shell):
    for name, parser in completion.command_lines().items():
        assert parser is not None, name
        flags = set(FLAG.findall(parser.format_usage()))
        assert flags or name == "completion", name
        for flag in flags:
            assert (f"-l {flag[2:]}" if shell == "fish" else flag) in scripts[shell], (name, flag)


def test_a_verb_without_its_packages_is_completed_by_name(monkeypatch):
    monkeypatch.setitem(command.VERBS, "info", command.Verb("package_that_nobody_has", (), "extra", "something"))
    assert "info" in completion.script("bash")


def test_without_shtab_the_way_out_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(DualBinaryError, match=r"pip install 'dualbinary\[completion\]'"):
        completion.script("bash")


@pytest.mark.parametrize("verb", ["", "generate", "chat", "serve", "bench"])
def test_help_imports_neither_onnxruntime_nor_torch(verb):
    program = (
        "import sys; from dualbinary.__main__ import main\n"
        f"try: main({[*([verb] if verb else []), '--help']!r})\n"
        "except SystemExit: pass\n"
        "heavy = {'onnxruntime', 'torch', 'onnx', 'uvicorn'} | ({'numpy'} if not sys.argv[1:] else set())\n"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *([verb] if verb else [])], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == ""
    assert "usage: " in done.stdout
