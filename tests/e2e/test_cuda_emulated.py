"""The whole way of a model to CUDA without a GPU: the op for CUDA, on the CPU provider, over emulated kernels.

What is left out is ONNX Runtime's own CUDA provider. The kernels are the very ones that nvcc compiles.
"""

import shutil
from pathlib import Path

import onnxruntime as ort
import pytest

from examples import smollm2
from exporter.options import ExportOptions
from exporter.pipeline import export
from runtime_ext.config import DecoderConfig
from runtime_ext.decoder import Decoder, session_options
from runtime_ext.generate import Generation, generate
from runtime_ext.sampling import Sampler
from runtime_ext.text import TextCodec
from tests.support.cuda_libraries import adapter_libraries, emulated_library
from tests.support.tiny_models import make_model

PROMPT = "The capital of France is"
STEPS = 6


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> Path:
    """A copy: a library keeps the CUDA library that it has opened."""
    return Path(shutil.copy(adapter_libraries() / "libcuda_adapter.so", tmp_path_factory.mktemp("adapter")))


def greedy(model: Path, tokens: list[int], steps: int, library: Path | None = None) -> list[int]:
    """The likeliest continuation: by the op for the CPU, or by `library`."""
    options = session_options(threads=2, library=library is None)
    if library is not None:
        options.register_custom_ops_library(str(library))
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    decoder = Decoder(session, DecoderConfig.read(model.parent))
    return list(generate(decoder, tokens, steps, Sampler(), Generation([])))


@pytest.mark.parametrize("capability", [86, 90, 120])
def test_a_tiny_model_continues_as_on_the_cpu(adapter, tmp_path, monkeypatch, capability):
    monkeypatch.setenv("DUALBINARY_CUDA_LIBRARY", str(emulated_library()))
    monkeypatch.setenv("DUALBINARY_CUDA_EMULATED_CAPABILITY", str(capability))
    model = tmp_path / "out" / "model.onnx"
    export(make_model("llama", tmp_path / "weights"), model, ExportOptions(target="cuda"))
    tokens = [1 + i % 50 for i in range(70)]  # enough for the kernels of many rows; single tokens follow
    assert greedy(model, tokens, STEPS, adapter) == greedy(model, tokens, STEPS)


@pytest.mark.slow
@pytest.mark.real_model
def test_the_real_model_continues_as_on_the_cpu_and_says_paris(adapter, tmp_path, monkeypatch):
    monkeypatch.setenv("DUALBINARY_CUDA_LIBRARY", str(emulated_library()))
    model = tmp_path / "model.onnx"
    export(smollm2.prepare(), model, ExportOptions(target="cuda"))
    codec = TextCodec(model.parent)
    tokens = codec.encode(PROMPT)
    found = greedy(model, tokens, STEPS, adapter)
    assert found == greedy(model, tokens, STEPS)
    assert "Paris" in codec.decode(found)
