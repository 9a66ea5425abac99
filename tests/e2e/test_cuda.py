"""Models made with `--target cuda`: on the CPU provider everywhere, and on a GPU where there is one."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from examples import smollm2
from exporter.options import ExportOptions
from exporter.pipeline import export
from exporter.verify import check
from runtime_ext.cuda_library import describe_cuda
from runtime_ext.decoder import Decoder, session_options
from runtime_ext.generate import Generation, generate
from runtime_ext.library import library_path
from runtime_ext.providers import CPU, Provider
from runtime_ext.sampling import Sampler
from runtime_ext.text import TextCodec
from tests.support.measures import run_measured
from tests.support.tiny_models import make_model

PROMPT = "The capital of France is"
STEPS = 8
TOKENS = [72, 101, 108, 108, 111, 44, 32, 119, 111, 114, 108, 100]
CUDA, CUDA_GRAPH = Provider("cuda"), Provider("cuda", cuda_graph=True)
# Both providers round activations to float16, each in its own order; see _TOLERANCE of exporter/verify/__init__.py.
TOLERANCE = 1e-2


@pytest.fixture(scope="session")
def cuda():
    """ONNX Runtime's provider and our kernels, which a device alone does not bring."""
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        pytest.skip("this onnxruntime has no CUDA provider; the package onnxruntime-gpu has")
    if describe_cuda() is None:
        pytest.skip("no CUDA kernels in this build")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Export of a tiny model by its name and type of activations, made once."""
    made: dict[tuple[str, str], Path] = {}

    def get(name: str, dtype: str = "fp16") -> Path:
        if (name, dtype) not in made:
            root = tmp_path_factory.mktemp(f"{name}-{dtype}")
            options = ExportOptions(target="cuda", dtype=dtype)
            export(make_model(name, root / "weights"), root / "out" / "model.onnx", options)
            made[name, dtype] = root / "out" / "model.onnx"
        return made[name, dtype]

    return get


@pytest.fixture(scope="session")
def smol(tmp_path_factory) -> Path:
    """SmolLM2 for CUDA, by the command."""
    out = tmp_path_factory.mktemp("smollm2") / "out.onnx"
    output, _ = run_measured(out.parent, "exporter", smollm2.prepare(), out, "--json", "--target", "cuda")
    assert not [line for line in json.loads(output)["warnings"] if line.startswith("on CUDA")]
    return out


def answer(path: Path, provider: Provider, static_steps: bool = False) -> list[int]:
    decoder = Decoder.load(path, provider=provider, static_steps=static_steps)
    return list(generate(decoder, TextCodec(path.parent).encode(PROMPT), STEPS, Sampler(), Generation([])))


def steps(path: Path, provider: Provider, static_steps: bool = False) -> np.ndarray:
    """Logits of the last token of a prompt, and of each token fed after it."""
    decoder = Decoder.load(path, provider=provider, static_steps=static_steps)
    decoder.start(len(TOKENS))
    return np.stack([decoder.step(TOKENS[:5]), *(decoder.step([token]) for token in TOKENS[5:])])


def test_steps_of_one_shape_give_the_same_tokens_on_the_cpu_provider(tiny):
    path = tiny("llama")
    found, fixed = (steps(path, CPU, static_steps) for static_steps in (False, True))
    assert np.array_equal(found.argmax(-1), fixed.argmax(-1))
    assert np.abs(found - fixed).max() <= TOLERANCE * np.abs(found).max()


@pytest.mark.slow
@pytest.mark.real_model
def test_the_answer_on_the_cpu_provider_is_paris(smol):
    tokens = answer(smol, CPU)
    assert TextCodec(smol.parent).decode(tokens).startswith(" Paris")
    assert answer(smol, CPU, static_steps=True) == tokens


@pytest.mark.gpu
@pytest.mark.real_model
@pytest.mark.parametrize("provider", [CUDA, CUDA_GRAPH], ids=["steps", "graph"])
def test_the_gpu_gives_the_tokens_of_the_cpu(cuda, smol, provider):
    assert answer(smol, provider) == answer(smol, CPU)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
@pytest.mark.parametrize("name", ["llama", "llama_tied", "bloom", "gemma2", "gpt2", "gpt_neox", "qwen2_moe"])
def test_the_gpu_gives_the_logits_of_the_cpu(cuda, tiny, name, dtype):
    path = tiny(name, dtype)
    expected = steps(path, CPU)
    for provider in (CUDA, CUDA_GRAPH):
        assert np.abs(steps(path, provider) - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
@pytest.mark.parametrize("name", ["llama", "bloom", "gpt_neox", "qwen2_moe"])
def test_no_copy_between_cpu_and_gpu_is_left_in_the_graph(cuda, tiny, tmp_path, name, dtype):
    """Copies block a CUDA graph; exporter/graph/cuda_support.py predicts them from ONNX Runtime's documents."""
    options = session_options()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    session = ort.InferenceSession(str(tiny(name, dtype)), options, providers=CUDA.session_providers())
    CUDA.check(session)
    optimized = onnx.load(tmp_path / "optimized.onnx", load_external_data=False)
    assert not [node.name for node in optimized.graph.node if node.op_type.startswith("Memcpy")]


@pytest.mark.gpu
def test_a_device_that_is_not_there_is_refused(cuda, tiny):
    with pytest.raises(Exception, match=r"cannot load it|could not be used"):
        Decoder.load(tiny("llama"), provider=Provider("cuda", 63))


@pytest.mark.gpu
def test_check_runs_on_the_gpu(cuda, tmp_path):
    out = tmp_path / "out" / "model.onnx"
    result = export(make_model("llama", tmp_path / "weights"), out, ExportOptions(target="cuda"))
    outcome = check(result, out, library_path())
    assert outcome.passed, outcome
    assert outcome.provider == "cuda"
