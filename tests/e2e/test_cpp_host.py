"""The C++ example, built as an application would build it."""

import subprocess

import pytest

from exporter.options import ExportOptions
from exporter.pipeline import export
from runtime_ext.decoder import Decoder
from runtime_ext.generate import Generation, generate
from runtime_ext.library import library_path
from runtime_ext.sampling import Sampler
from tests.support import tiny_sessions as tiny
from tests.support.tiny_models import make_model

PROMPT = [72, 101, 108, 108, 111]
COUNT = 8


def run(host, *arguments):
    return subprocess.run([host, *map(str, arguments)], check=False, capture_output=True, text=True)


@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_the_host_prints_the_tokens_that_the_command_generates(cpp_host, tmp_path, dtype):
    model = tiny.make_model(tiny.make_weights(tmp_path / "weights"), tmp_path / "model", dtype)
    decoder = Decoder.load(model)
    expected = list(generate(decoder, PROMPT, COUNT, Sampler(), Generation([])))
    for library in (library_path(), "none"):
        done = run(cpp_host, model, library, COUNT, *PROMPT)
        assert done.returncode == 0, done.stderr
        assert [int(token) for token in done.stdout.split()] == expected


def test_the_host_makes_a_cache_of_the_models_own_type(cpp_host, tmp_path):
    path = tmp_path / "out" / "model.onnx"
    export(make_model("llama", tmp_path / "model"), path, ExportOptions(kv_cache="int8"), library=library_path())
    expected = list(generate(Decoder.load(path), PROMPT, COUNT, Sampler(), Generation([])))

    done = run(cpp_host, path, library_path(), COUNT, *PROMPT)

    assert done.returncode == 0, done.stderr
    assert [int(token) for token in done.stdout.split()] == expected


def test_a_missing_library_is_an_error_that_names_it(cpp_host, tmp_path):
    done = run(cpp_host, tmp_path / "out.onnx", tmp_path / "libmissing.so", COUNT, *PROMPT)
    assert done.returncode == 1
    assert "libmissing.so" in done.stderr


def test_wrong_usage_says_how(cpp_host):
    done = run(cpp_host)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: cpp_host")
