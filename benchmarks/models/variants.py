"""Variants of the whole-model benchmark: the engines, and one model made into the file that each of them reads.

Every file is made once, below a work directory, by a command that is printed, and gets its name when it is finished.
The caller reports a file that cannot be made, and measures the other variants.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from benchmarks.common import REPOSITORY
from benchmarks.common.synthetic_llama import TINY_LLAMA, write_llama
from dualbinary import DualBinaryError
from dualbinary.contract.schema import OP
from dualbinary.onnx_files.blocks import fuse_blocks, unfuse_blocks
from dualbinary.onnx_files.same_bits import state_same_bits
from examples import smollm2

__all__ = [
    "CUDA_VARIANTS",
    "MODELS",
    "VARIANTS",
    "Variant",
    "file_bytes",
    "finish",
    "make_file",
    "measure_round",
    "python_of",
    "set_accuracy_level",
]

PEERS_PYTHON = REPOSITORY / ".venv-peers" / "bin" / "python"
TWO_BITS = ("--planes", "2", "--no-offset", "--group-size", "128")
TWO_BITS_LEVEL4 = (*TWO_BITS, "--accuracy-level", "4")


@dataclass(frozen=True)
class Variant:
    """A row of the table: an engine, its file, and what makes the file from a model directory.

    `make` gets the work directory, which has the model in hf/, and the path to write; `models` are those it fits.
    """

    name: str
    engine: str
    file: str
    make: Callable[[Path, Path], None]
    options: dict[str, Any] = field(default_factory=dict)
    models: tuple[str, ...] = ("llama-1b", "smollm2")


def _synthetic(directory: Path) -> None:
    write_llama(directory, TINY_LLAMA)
    # onnxruntime-genai's builder wants a tokenizer; any one will do, as tokens are numbers here.
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(smollm2.prepare() / name, directory / name)


def _smollm2(directory: Path) -> None:
    directory.symlink_to(smollm2.prepare(), target_is_directory=True)


MODELS: dict[str, Callable[[Path], None]] = {"llama-1b": _synthetic, "smollm2": _smollm2}
"""Makers of the Hugging Face directory of each model."""


def _export(*options: str) -> Callable[[Path, Path], None]:
    def make_export(work: Path, path: Path) -> None:
        _run(sys.executable, "-m", "exporter", work / "hf", path, *options)

    return make_export


def _level0(work: Path, path: Path) -> None:
    set_accuracy_level(_made(VARIANTS[0], work), path, 0)


def set_accuracy_level(source: Path, path: Path, level: int) -> None:
    """Make the export `path` of the export `source`: the same weights, linked, another accuracy_level in every node."""
    path.parent.mkdir()
    for file in source.parent.iterdir():
        if file.name != source.name:
            os.link(file, path.parent / file.name)
    model = onnx.load(source, load_external_data=False)
    had_blocks = unfuse_blocks(model)
    for node in model.graph.node:
        if node.domain in OP.domain_names and node.op_type == OP.name:
            found = next((each for each in node.attribute if each.name == "accuracy_level"), None)
            if found is None:
                node.attribute.append(onnx.helper.make_attribute("accuracy_level", level))
            else:
                found.i = level
    if had_blocks:
        fuse_blocks(model)
    state_same_bits(model)
    onnx.save(model, path)


def _gguf(kind: str) -> Callable[[Path, Path], None]:
    def make_gguf(work: Path, path: Path) -> None:
        float16 = work / "f16.gguf"
        if not float16.exists():
            _run(sys.executable, "-m", "benchmarks.models.gguf_write", work / "hf", work / "new.gguf")
            (work / "new.gguf").rename(float16)
        path.parent.mkdir()
        _run(python_of("llama.cpp"), "-m", "benchmarks.models.gguf_quantize", float16, path, kind)

    return make_gguf


def _genai(work: Path, path: Path) -> None:
    cache = work / "builder-cache"
    # Pruned: logits of the last token alone, as in the other engines.
    options = ("block_size=128", "accuracy_level=4", "prune_lm_head=true")
    _run(
        *(sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", work / "hf", "-o", path.parent),
        *("-p", "int4", "-e", "cpu", "-c", cache, "--extra_options", *options),
    )
    shutil.rmtree(cache, ignore_errors=True)


def _llama_cpp(kind: str, *models: str) -> tuple[Variant, Variant]:
    """Return llama.cpp as it comes, and without repacking, which loads faster and on some CPUs reads prompts faster."""
    names = models or ("llama-1b", "smollm2")
    first = Variant(f"llama.cpp {kind}", "llama.cpp", f"gguf-{kind}/model.gguf", _gguf(kind), models=names)
    second = Variant(f"{first.name}, plain", first.engine, first.file, first.make, {"repack": False}, names)
    return first, second


VARIANTS = (
    Variant(
        "dualbinary 2 bits, level 4",
        "dualbinary",
        "dualbinary-2bit-level4/model.onnx",
        _export(*TWO_BITS_LEVEL4),
    ),
    Variant("dualbinary 2 bits, level 0", "dualbinary", "dualbinary-2bit-level0/model.onnx", _level0),
    Variant("dualbinary default", "dualbinary", "dualbinary-default/model.onnx", _export()),
    *_llama_cpp("Q2_K", "llama-1b"),  # quantization blocks of 256, which do not divide SmolLM2's rows of 576
    *_llama_cpp("TQ2_0", "llama-1b"),
    *_llama_cpp("Q4_0"),
    Variant("genai int4", "genai", "genai-int4/model.onnx", _genai),
)


def _full_precision(target: str) -> Callable[[Path, Path], None]:
    def make_reference(work: Path, path: Path) -> None:
        _run(sys.executable, "-m", "examples.reference", work / "hf", path.parent, "--target", target)

    return make_reference


def _on_cuda(name: str, file: str, make: Callable[[Path, Path], None], cuda_graph: bool = False) -> Variant:
    return Variant(name, "dualbinary", file, make, {"provider": "cuda", "cuda_graph": cuda_graph})


_TWO_BITS_CUDA = ("dualbinary-2bit-cuda/model.onnx", _export(*TWO_BITS, "--target", "cuda"))
_FLOAT16_CUDA = ("float16-cuda/model.onnx", _full_precision("cuda"))
CUDA_VARIANTS = (
    _on_cuda("dualbinary 2 bits, level 0", *_TWO_BITS_CUDA),
    _on_cuda("dualbinary 2 bits, level 0, CUDA graph", *_TWO_BITS_CUDA, cuda_graph=True),
    _on_cuda("float16 ONNX", *_FLOAT16_CUDA),
    _on_cuda("float16 ONNX, CUDA graph", *_FLOAT16_CUDA, cuda_graph=True),
)
"""Variants on ONNX Runtime's CUDA provider; ratios are against the first, as in VARIANTS."""


def make_file(variant: Variant, model: str, work: Path) -> Path:
    """Return the variant's file of `model`, made if it is missing. Raises DualBinaryError where that fails."""
    if not (work / "hf").exists():
        work.mkdir(parents=True, exist_ok=True)
        finish(work / "hf", MODELS[model])
    return _made(variant, work)


def _made(variant: Variant, work: Path) -> Path:
    path = work / variant.file
    if not path.exists():
        finish(path.parent, lambda scratch: variant.make(work, scratch / path.name))
    return path


def finish(directory: Path, make_it: Callable[[Path], None]) -> None:
    """Make a directory under another name, so that an interrupted run leaves nothing that looks finished."""
    scratch = directory.with_name(f"{directory.name}.new")
    if scratch.is_symlink():
        scratch.unlink()
    shutil.rmtree(scratch, ignore_errors=True)
    make_it(scratch)
    scratch.rename(directory)


def python_of(engine: str) -> Path:
    """Return the interpreter that has an engine: this one, or the peers'. Raises DualBinaryError if none has."""
    if engine == "dualbinary":
        return Path(sys.executable)
    module = {"llama.cpp": "llama_cpp", "genai": "onnxruntime_genai"}[engine]
    if not PEERS_PYTHON.exists():
        raise DualBinaryError("not installed: `make bench-peers` makes the peers' environment")
    done = subprocess.run([PEERS_PYTHON, "-c", f"import {module}"], check=False, capture_output=True, text=True)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["it cannot be imported"]
        raise DualBinaryError(f"`make bench-peers` did not install it: {reason[0]}")
    return PEERS_PYTHON


def file_bytes(path: Path) -> int:
    """Sum the bytes of a model: the ONNX file and its external data."""
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))


def _run(*words: object) -> None:
    """Run a command in the repository, printed first; its output goes to standard error."""
    command = [str(word) for word in words]
    print("$", shlex.join(["python", *command[1:]]), file=sys.stderr, flush=True)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, check=False, stdout=sys.stderr, cwd=REPOSITORY, env=environment)
    if done.returncode:
        raise DualBinaryError(f"`python {shlex.join(command[1:])}` failed with exit code {done.returncode}")


def measure_round(path: Path, variant: Variant, threads: int, prompts: list[int], tokens: int) -> dict[str, Any]:
    """Measure one round in a new process (benchmarks.models.engine). Raises DualBinaryError where it fails."""
    command = [
        *(str(python_of(variant.engine)), "-m", "benchmarks.models.engine", variant.engine, str(path)),
        *("--threads", str(threads), "--tokens", str(tokens), "--prompts", *map(str, prompts)),
        *("--options", json.dumps(variant.options)),
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=REPOSITORY)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise DualBinaryError(reason[0])
    return json.loads(done.stdout.splitlines()[-1])
