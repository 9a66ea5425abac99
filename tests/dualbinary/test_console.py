import argparse
import subprocess
import sys

import pytest

from dualbinary import DualBinaryError, InputError
from dualbinary.cli import console

ROOM = "make room and give the same command again"
MEMORY = "free some, raise the limit (ulimit -v, a container's), or take a machine that has more"


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
        (OSError(28, "No space left on device", "a.onnx"), 1, f"error: a.onnx: No space left on device; {ROOM}"),
        (OSError(28, "No space", "from", None, "to.onnx"), 1, f"error: to.onnx: No space; {ROOM}"),
        (MemoryError(), 1, f"error: not enough memory; {MEMORY}"),
        (MemoryError("12 GiB"), 1, f"error: not enough memory (12 GiB); {MEMORY}"),
        (OSError(12, "Cannot allocate"), 1, f"error: not enough memory ([Errno 12] Cannot allocate); {MEMORY}"),
        (RuntimeError("std::bad_alloc"), 1, f"error: not enough memory (std::bad_alloc); {MEMORY}"),
        (DualBinaryError("it was out of memory"), 1, "error: it was out of memory"),
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


def test_an_interrupted_command_says_what_is_kept(capsys):
    def command(args):
        raise KeyboardInterrupt

    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    assert console.run(lambda: parser, command, ["a.onnx"], kept=lambda args: f"{args.out} was not written") == 130
    assert capsys.readouterr().err == "interrupted; a.onnx was not written\n"


def test_a_command_may_be_interrupted_while_its_options_are_made(capsys):
    def parser():
        raise KeyboardInterrupt

    assert console.run(parser, lambda args: None, [], kept=lambda args: args.out) == 130
    assert capsys.readouterr().err == "interrupted\n"


TERMINATED = """
import argparse, os, signal, sys
from dualbinary.cli import console
def command(args):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        os.kill(os.getpid(), signal.SIGTERM)  # once more, while it cleans up
        print("clean", flush=True)
console.interrupt_when_terminated()
raise SystemExit(console.run(argparse.ArgumentParser(), command, [], kept=lambda args: "all is kept"))
"""


def test_a_command_that_is_terminated_cleans_up_and_ends_with_143():
    done = subprocess.run([sys.executable, "-c", TERMINATED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (143, "clean\n", "terminated; all is kept\n")


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
