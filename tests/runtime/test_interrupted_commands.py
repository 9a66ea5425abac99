"""Ctrl-C and SIGTERM while a command loads, runs the model, or waits for a line: exit code 130 or 143, and one word."""

import signal
import subprocess
import sys

import pytest

# The decoder says when it is at work, and is slow; a shell's background jobs ignore Ctrl-C, so that is set back.
CHILD = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from runtime_ext.decoder import Decoder
from runtime_ext.__main__ import main

def slow(real):
    def call(*args, **kwargs):
        print("working", file=sys.stderr, flush=True)
        time.sleep(0.2)
        return real(*args, **kwargs)
    return call

name = sys.argv[1]
setattr(Decoder, name, classmethod(slow(Decoder.load.__func__)) if name == "load" else slow(getattr(Decoder, name)))
sys.exit(main(sys.argv[2:]))
"""
ENDS = {signal.SIGINT: (130, "interrupted"), signal.SIGTERM: (143, "terminated")}


def started(command):
    pipe = subprocess.PIPE
    return subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe, stderr=pipe)


@pytest.mark.parametrize("number", ENDS, ids=lambda number: number.name)
@pytest.mark.parametrize(
    ("moment", "words"),
    [
        ("load", ["generate", "MODEL", "--prompt", "Hi"]),
        ("step", ["generate", "MODEL", "--prompt", "Hi", "--max-new-tokens", "40"]),
        ("load", ["serve", "MODEL", "--port", "0"]),
        ("load", ["chat", "MODEL"]),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_a_command_ends_with_one_word(tiny_model, number, moment, words):
    arguments = [str(tiny_model) if word == "MODEL" else word for word in words]
    command = [sys.executable, "-c", CHILD, moment, *arguments]
    with started(command) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "working\n"
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
    code, word = ENDS[number]
    assert process.returncode == code
    assert [line for line in errors.splitlines() if line != "working"] == [word]


@pytest.mark.parametrize("number", ENDS, ids=lambda number: number.name)
def test_a_chat_that_waits_for_a_line_of_a_pipe_ends_too(tiny_model, number):
    command = [sys.executable, "-c", CHILD, "step", "chat", str(tiny_model), "--json", "--max-new-tokens", "2"]
    with started(command) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        process.stdin.write("Hi\n")
        process.stdin.flush()
        assert '"assistant"' in process.stdout.readline()  # answered: the next thing is to wait
        process.send_signal(number)
        process.wait(120)
        errors = process.stderr.read()
    code, word = ENDS[number]
    assert process.returncode == code
    assert [line for line in errors.splitlines() if line != "working"] == [word]
