import argparse
import subprocess
import sys

import pytest

from dualbinary import DualBinaryError, InputError
from dualbinary.cli import console


def exit_code(error=None, argv=()):
    parser = argparse.ArgumentParser(prog="command")
    console.add_common_options(parser)

    def command(args):
        if error is not None:
            raise error

    return console.run(parser, command, argv)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (None, 0, ""),
        (DualBinaryError("no\n  room"), 1, "error: no room"),
        (InputError("planes: got 9"), 2, "error: planes: got 9"),
        (FileNotFoundError(2, "No such file or directory", "a.onnx"), 1, "error: a.onnx: No such file or directory"),
        (OSError("odd"), 1, "error: odd"),
        (MemoryError(), 1, "error: MemoryError"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_run_turns_an_error_into_one_line_and_an_exit_code(capsys, error, code, line):
    assert exit_code(error) == code
    assert capsys.readouterr().err.strip() == line


def test_run_with_debug_shows_the_traceback_too(capsys):
    assert exit_code(InputError("wrong"), ["--debug"]) == 2
    output = capsys.readouterr().err
    assert "Traceback" in output
    assert output.endswith("error: wrong\n")


def test_run_lets_a_bug_escape():
    with pytest.raises(ZeroDivisionError):
        exit_code(ZeroDivisionError())


def test_run_with_an_unknown_option_leaves_with_2():
    with pytest.raises(SystemExit) as leaving:
        exit_code(argv=["--nonsense"])
    assert leaving.value.code == 2


ENDLESS = """
import argparse, itertools
from dualbinary.cli import console
def command(args):
    for i in itertools.count():
        print(i)
raise SystemExit(console.run(argparse.ArgumentParser(), command, []))
"""


def test_run_into_a_closed_pipe_ends_quietly():
    with subprocess.Popen([sys.executable, "-c", ENDLESS], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 1
