"""SmolLM2-135M-Instruct from its Hugging Face directory to text, with the commands that a person uses."""

# onnxruntime_genai fills its module at run time, where a type checker cannot see it.
# pyright: reportAttributeAccessIssue=false

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime_genai as genai
import pytest

from examples import smollm2
from runtime_ext.decoder import Decoder
from runtime_ext.generate import Generation, generate
from runtime_ext.library import library_path
from runtime_ext.sampling import Sampler
from runtime_ext.text import TextCodec

pytestmark = pytest.mark.real_model

PROMPT = "The capital of France is"
STEPS = 32
# The promise for this model, PyTorch included: loading the libraries alone takes a third of it.
MAX_EXPORT_RSS = 1.5e9
# Of the bfloat16 weights: four planes with offset at 5.25 bits, 8-bit vocabulary table with block scales.
MAX_SIZE_RATIO = 0.40
# The same with two planes and no offset: 2.5 bits with scales.
MAX_SIZE_RATIO_TWO_PLANES = 0.26


@dataclass(frozen=True)
class Export:
    path: Path
    summary: dict[str, Any]
    peak_rss_bytes: int


def run_exporter(out: Path, *options: str) -> Export:
    """Export in a process of its own and keep what the system says about that process."""
    command = [sys.executable, "-m", "exporter", str(smollm2.prepare()), str(out), "--json", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return Export(out, json.loads(output), usage.ru_maxrss * 1024)


def source_bytes() -> int:
    return (smollm2.prepare() / "model.safetensors").stat().st_size


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Export:
    """The default export, not yet checked."""
    return run_exporter(tmp_path_factory.mktemp("exported") / "out.onnx")


@pytest.fixture(scope="module")
def greedy(exported) -> list[int]:
    """What the library's kernels answer."""
    return answer(exported.path, library=True)


def answer(path: Path, library: bool) -> list[int]:
    prompt = TextCodec(path.parent).encode(PROMPT)
    return list(generate(Decoder.load(path, library=library), prompt, STEPS, Sampler(), Generation([])))


def test_export_is_small_and_takes_little_memory(exported):
    assert exported.path.with_name("out.onnx.data").stat().st_size <= MAX_SIZE_RATIO * source_bytes()
    assert exported.peak_rss_bytes < MAX_EXPORT_RSS


@pytest.mark.slow
def test_two_planes_take_a_quarter_of_the_bfloat16_weights(tmp_path):
    path = run_exporter(tmp_path / "out.onnx", "--planes", "2", "--no-offset").path
    assert path.with_name("out.onnx.data").stat().st_size <= MAX_SIZE_RATIO_TWO_PLANES * source_bytes()


def test_the_answer_is_paris(exported, greedy):
    assert TextCodec(exported.path.parent).decode(greedy).startswith(" Paris")


def test_stock_onnxruntime_gives_the_same_tokens_by_the_fallback_function(exported, greedy):
    assert answer(exported.path, library=False) == greedy


def test_genai_gives_the_same_tokens(exported, greedy):
    model = genai.Model(str(exported.path.parent))
    prompt = genai.Tokenizer(model).encode(PROMPT)
    parameters = genai.GeneratorParams(model)
    parameters.set_search_options(max_length=len(prompt) + len(greedy), do_sample=False)
    generator = genai.Generator(model, parameters)
    generator.append_tokens(prompt)
    while not generator.is_done():
        generator.generate_next_token()
    assert generator.get_sequence(0)[len(prompt) :].tolist() == greedy


def test_the_cpp_host_gives_the_same_tokens(exported, greedy, cpp_host):
    prompt = TextCodec(exported.path.parent).encode(PROMPT)
    command = [cpp_host, exported.path, library_path(), len(greedy), *prompt]
    done = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
    assert [int(token) for token in done.stdout.split()] == greedy
