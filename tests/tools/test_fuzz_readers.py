"""The fuzz targets of readers: each for some hundred inputs, and the engine that finds what a target lets through."""

import json
import random
from types import SimpleNamespace
from typing import Any

import pytest

from dualbinary import InputError
from exporter.source.model_directory import ModelDirectory
from tools.fuzz.readers import TARGETS, model_directory, target
from tools.fuzz.readers.__main__ import main
from tools.fuzz.readers.engine import run_target
from tools.fuzz.readers.mutate import mutated
from tools.fuzz.readers.sections import files_of, in_directory, joined

SLOW = {"model_directory": 40, "onnx_model": 60, "chat": 100}  # inputs; transformers builds a model for each


@pytest.mark.parametrize("name", TARGETS)
def test_readers_refuse_what_is_wrong_and_nothing_else_comes_out(name):
    outcome = run_target(target(name), inputs=SLOW.get(name, 200))
    assert [crash.error for crash in outcome.crashes.values()] == []
    assert outcome.executions > SLOW.get(name, 200)


def reader(read) -> Any:
    return SimpleNamespace(NAME="reader", seeds=lambda: iter([b'{"a": 1}']), try_input=read)


def test_an_error_that_is_not_promised_is_a_crash_with_its_input():
    def read(data):
        try:
            assert json.loads(data)["a"] + 1 != data
        except (ValueError, RecursionError):
            return

    crashes = run_target(reader(read), inputs=300).crashes.values()
    assert {crash.error.partition(":")[0] for crash in crashes} >= {"KeyError", "TypeError"}
    for crash in crashes:
        with pytest.raises((KeyError, TypeError)):
            read(bytes.fromhex(crash.to_dict()["input"]))


def test_memory_without_end_is_a_crash():
    outcome = run_target(reader(lambda data: bytes(1 << 46) if data[:1] != b"{" else None), inputs=200)
    assert [crash.error[:11] for crash in outcome.crashes.values()] == ["MemoryError"]


def test_equal_seeds_make_equal_inputs():
    first, second = (random.Random(3) for _ in range(2))
    data = joined({"config.json": b'{"a": [1, 2]}', "b.bin": bytes(40)})
    made = [mutated(data, first) for _ in range(50)]
    assert made == [mutated(data, second) for _ in range(50)]
    assert len(set(made)) > 40


def test_sections_are_files_again():
    files = {"config.json": b'{"a": 1}', "b.bin": b"\n--- \n\xff"}
    assert files_of(joined(files)) == files
    assert files_of(b"--- ../x\n1\n--- ..\n2") == {}


def test_directories_to_begin_with_are_whole():
    for data in model_directory.seeds():
        with in_directory(files_of(data)) as directory:
            assert len(ModelDirectory(directory).tensors) == 11


def test_the_command_says_what_it_found(capsys, monkeypatch):
    def fail(data):
        if data != b'{"a": 1}':
            raise InputError("passed through")

    monkeypatch.setattr("tools.fuzz.readers.__main__.target", lambda name: reader(fail))
    assert main(["planes", "--seconds", "0.1", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["target"], len(found["crashes"])) == ("reader", 1)
    monkeypatch.setattr("tools.fuzz.readers.__main__.target", lambda name: reader(lambda data: None))
    assert main(["planes", "--seconds", "0.1"]) == 0
