"""The C++ example, built as an application would build it, against the shared library inside the onnxruntime wheel."""

import subprocess
from pathlib import Path

import onnxruntime
import pytest

from runtime_ext.decoder import Decoder
from runtime_ext.generate import Generation, generate
from runtime_ext.library import library_path
from runtime_ext.sampling import Sampler
from tests.runtime import tiny

SOURCE = Path(__file__).resolve().parents[2] / "examples" / "cpp_host"
PROMPT = [72, 101, 108, 108, 111]
COUNT = 8


@pytest.fixture(scope="module")
def host(tmp_path_factory) -> Path:
    libraries = sorted((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))
    if not libraries:
        pytest.skip("this onnxruntime wheel has no separate shared library")
    build = tmp_path_factory.mktemp("cpp_host")
    subprocess.run(["cmake", "-S", SOURCE, "-B", build, f"-DONNXRUNTIME_LIBRARY={libraries[0]}"], check=True)
    subprocess.run(["cmake", "--build", build], check=True)
    return build / "cpp_host"


def run(host, *arguments):
    return subprocess.run([host, *map(str, arguments)], check=False, capture_output=True, text=True)


@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_the_host_prints_the_tokens_that_the_command_generates(host, tmp_path, dtype):
    model = tiny.make_model(tiny.make_weights(tmp_path / "weights"), tmp_path / "model", dtype)
    decoder = Decoder.load(model)
    expected = list(generate(decoder, PROMPT, COUNT, Sampler(), Generation([])))
    for library in (library_path(), "none"):
        done = run(host, model, library, COUNT, *PROMPT)
        assert done.returncode == 0, done.stderr
        assert [int(token) for token in done.stdout.split()] == expected


def test_a_missing_library_is_an_error_that_names_it(host, tmp_path):
    done = run(host, tmp_path / "out.onnx", tmp_path / "libmissing.so", COUNT, *PROMPT)
    assert done.returncode == 1
    assert "libmissing.so" in done.stderr


def test_wrong_usage_says_how(host):
    done = run(host)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: cpp_host")
