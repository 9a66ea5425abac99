"""`python -m runtime_ext info`: describe the library, ONNX Runtime, the CUDA kernels, and a model.

python -m runtime_ext info [OUT.onnx] [--json]
python -m runtime_ext info --isas       the instruction sets that DUALBINARY_ISA may name on this CPU
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort

import runtime_ext
from dualbinary.cli.options import option, options_from
from dualbinary.files.model_files import EXPORT_REPORT
from runtime_ext.config import read_json
from runtime_ext.cuda_library import describe_cuda
from runtime_ext.decoder import Decoder, LoadOptions

__all__ = ["EXAMPLES", "OPTIONS", "InfoOptions", "describe_model"]


@dataclass(frozen=True)
class InfoOptions:
    """Options of the command."""

    isas: bool = option(False, help="print only the names that DUALBINARY_ISA may have here")


OPTIONS = (LoadOptions, InfoOptions)
EXAMPLES = """\
examples:
  dualbinary info                     the library, its kernels for this CPU, ONNX Runtime
  dualbinary info OUT.onnx --json     and the model: files, inputs and outputs, context, cache, formats
"""


def describe_model(path: Path, threads: int = 0, library: bool = True) -> dict[str, Any]:
    """A model's facts: files with their sizes in bytes, inputs and outputs, context, cache, totals and formats.

    Raises InputError as Decoder.load does: a model that is described here also loads.
    """
    decoder = Decoder.load(path, threads, library)
    files = [path, *sorted(file for file in path.parent.glob(f"{path.name}*") if file != path)]
    report = read_json(path.parent / EXPORT_REPORT)
    totals, formats = report.get("totals"), report.get("formats")
    return {
        "files": {file.name: file.stat().st_size for file in files},
        "context_length": decoder.config.context_length,
        "eos_token_ids": list(decoder.config.eos_token_ids),
        "share_buffer": decoder.config.share_buffer,
        "cache_bytes_per_token": decoder.cache_bytes_per_token,
        "inputs": {value.name: f"{value.type} {value.shape}" for value in decoder.session.get_inputs()},
        "outputs": {value.name: f"{value.type} {value.shape}" for value in decoder.session.get_outputs()},
        **({"export": totals} if totals else {}),
        **({"formats": formats} if formats else {}),
    }


def command(args: argparse.Namespace) -> None:
    """Run the command."""
    library, load = runtime_ext.describe(), options_from(args, LoadOptions)
    if options_from(args, InfoOptions).isas:
        isas = list(dict.fromkeys(kernel["isa"] for kernel in library["kernels"] if kernel["available"]))
        print(json.dumps(isas) if args.json else " ".join(isas))
        return
    runtime = {"version": ort.__version__, "providers": ort.get_available_providers()}
    facts: dict[str, Any] = {"library": library, "onnxruntime": runtime, "cuda": describe_cuda()}
    if args.model is not None:
        facts["model"] = describe_model(args.model, load.threads, load.library)
    if args.json:
        print(json.dumps(facts))
        return
    facts["cuda"] = facts["cuda"] or {"kernels": "no CUDA kernels in this build"}
    for title, section in facts.items():
        print(title)
        _print(section, indent="  ")


def _print(section: dict[str, Any], indent: str) -> None:
    width = max(map(len, section), default=0)
    for key, value in section.items():
        if isinstance(value, dict):
            print(f"{indent}{key}")
            _print(value, indent + "  ")
        elif isinstance(value, list):
            words = [", ".join(map(str, item.values())) if isinstance(item, dict) else str(item) for item in value]
            separator = f"\n{indent}{'':{width}}  " if any(isinstance(item, dict) for item in value) else " "
            print(f"{indent}{key:{width}}  {separator.join(words)}")
        else:
            print(f"{indent}{key:{width}}  {value}")
