import re
import subprocess
import sys

import pytest

from dualbinary import __main__ as command
from dualbinary import digest
from dualbinary.cli.completion import command_lines

# For the name of an option; what argparse shows so are choices, several with commas or those of this flag.
PLACE = re.compile(r"(?<!layout-for )\{\w+\}")


def run(*arguments):
    return subprocess.run([sys.executable, "-m", "dualbinary", *arguments], capture_output=True, text=True, check=False)


def test_help_lists_every_verb():
    result = run("--help")
    assert result.returncode == 0
    assert all(verb in result.stdout for verb in command.VERBS)


def test_help_has_the_names_of_options_where_texts_leave_a_place():
    for verb, parser in command_lines().items():
        assert parser, verb
        assert PLACE.findall(parser.format_help()) == [], verb


@pytest.mark.parametrize("verb", ["chat", "export", "report", "convert"])
def test_help_of_a_verb_says_the_command_that_was_typed(verb):
    assert run(verb, "--help").stdout.startswith(f"usage: dualbinary {verb} ")


def test_version_names_the_package_and_the_contract():
    result = run("--version")
    assert result.returncode == 0
    assert digest() in result.stdout


@pytest.mark.parametrize("arguments", [(), ("frobnicate",), ("--frobnicate",)])
def test_unknown_verb_leaves_with_2_and_names_the_verbs(arguments):
    result = run(*arguments)
    assert result.returncode == 2
    assert "verb" in result.stderr


def test_quantize_is_the_command_of_calib(capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "calib.__main__", raising=False)  # as in a new process
    assert command.main(["quantize", "no-such-model", "no-such-output"]) == 2
    error = capsys.readouterr().err
    assert "no-such-model: not a directory" in error
    assert len(error.splitlines()) == 1


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A package with the given main program as the verb `info`; arguments before the user's are `first`."""

    def install(program):
        package = tmp_path / "package_of_info"
        package.mkdir()
        (package / "__main__.py").write_text(program)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setitem(command.VERBS, "info", command.Verb(package.name, ("first",), "extra", ""))

    return install


def test_verb_runs_its_module_with_its_arguments_and_exit_code(module, capsys):
    module("import sys\nprint(sys.argv[1:])\nsys.exit(3)")
    assert command.main(["info", "--json", "--help"]) == 3
    assert capsys.readouterr().out == "['first', '--json', '--help']\n"


@pytest.mark.parametrize(("program", "code"), [("", 0), ("raise SystemExit", 0), ("raise SystemExit('no')", 1)])
def test_verb_whose_module_ends_otherwise_has_an_exit_code(module, program, code):
    module(program)
    assert command.main(["info"]) == code


def test_verb_whose_module_misses_a_package_names_the_way_out(module, capsys):
    module("import package_that_nobody_has")
    assert command.main(["info"]) == 1
    assert "pip install 'dualbinary[extra]'" in capsys.readouterr().err


def test_import_of_the_base_package_needs_numpy_only():
    program = (
        "import sys, dualbinary, dualbinary.checkpoint, dualbinary.fitting.closed_form, dualbinary.metrics.statistics\n"
        "import dualbinary.contract.golden\n"
        "print(*sorted({'torch', 'onnx', 'safetensors', 'transformers', 'exporter', 'runtime_ext'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""
