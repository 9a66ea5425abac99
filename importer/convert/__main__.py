"""`python -m importer.convert SOURCE OUT`: a model of this project as a GGUF file or as a directory of GPTQ."""

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from dualbinary import InputError
from dualbinary.cli.console import add_common_options, interrupt_when_terminated, run, state_of
from dualbinary.cli.options import add_options, option, options_from
from importer.convert.checkpoint_source import open_checkpoint
from importer.convert.gguf.write import write_gguf
from importer.convert.gptq import write_gptq
from importer.convert.onnx_source import open_onnx
from importer.convert.own_model import OwnModel

__all__ = ["ConvertOptions", "main"]

Type = Literal["Q1_0", "TQ2_0", "Q2_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]


@dataclass(frozen=True)
class ConvertOptions:
    """Options of the command."""

    types: tuple[Type, ...] = option(
        (), help="types of GGUF that weights may have, for programs that do not read all", shown="default all"
    )
    dequantize: bool = option(False, help="write weights that no type of GGUF holds as float16 or float32")
    force: bool = option(False, help="replace OUT.gguf if it exists")
    quiet: bool = option(False, help="no progress bar")


_EPILOG = """\
examples:
  dualbinary convert s/model.onnx smollm2.gguf                   an export, for llama.cpp
  dualbinary convert smollm2-fdb smollm2.gguf --types Q4_0,Q8_0  a checkpoint, for a program that reads these types
  dualbinary convert smollm2-even smollm2-gptq                   for vLLM and GPTQModel
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="dualbinary convert",
        description="Write a model of this project for llama.cpp (OUT.gguf), or for vLLM and GPTQModel (a directory of "
        "GPTQ, version 2). Its levels stay what they are; what a format cannot hold is refused by name.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("source", type=Path, metavar="SOURCE", help="a checkpoint, or OUT.onnx of an export")
    result.add_argument("out", type=Path, metavar="OUT", help="a file that ends in .gguf, or a directory to make")
    add_options(result, ConvertOptions)
    add_common_options(result)
    return result


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a model is complete; nothing may be fetched
    interrupt_when_terminated()
    return run(parser, _command, argv, kept=lambda args: state_of(args.out))


def _command(args: argparse.Namespace) -> None:
    options = options_from(args, ConvertOptions)
    source, out = args.source, args.out
    gguf = out.suffix == ".gguf"
    _check(source, out, gguf, options)
    begin = time.perf_counter()
    model = _opened(source)
    total = sum(weight.N * weight.K for weight in model.weights.values())
    shown = {"unit": "weight", "unit_scale": True, "desc": "levels, then data", "file": sys.stderr, "leave": False}
    with tqdm(total=2 * total, disable=options.quiet or not sys.stderr.isatty(), **shown) as bar:

        def progress(weights: int) -> None:
            bar.update(weights)

        if gguf:
            outcome = write_gguf(model, out, types=options.types, dequantize=options.dequantize, progress=progress)
        else:
            outcome = write_gptq(model, out, progress=progress)
    seconds = time.perf_counter() - begin
    if args.json:
        answer = {"out": str(out), "format": outcome.format, "types": outcome.types, "seconds": round(seconds, 1)}
        print(json.dumps(answer | {"notes": outcome.lines()}))
        return
    for note in outcome.lines():
        print(f"note: {note}", file=sys.stderr)
    types = ", ".join(f"{count} {kind}" for kind, count in outcome.types.items())
    print(f"{out}: {outcome.format} of {source.name}, {types}, in {seconds:.1f} s")


def _check(source: Path, out: Path, gguf: bool, options: ConvertOptions) -> None:
    if not source.exists():
        raise InputError(f"{source}: no such file or directory")
    if gguf and out.exists() and not (options.force and out.is_file()):
        way = "--force replaces it" if out.is_file() else "choose another name"
        raise InputError(f"{out}: exists; {way}")
    if not gguf and (options.types or options.dequantize):
        raise InputError(f"{out}: --types and --dequantize are of GGUF files, and OUT does not end in .gguf")
    if not gguf and out.suffix:
        raise InputError(f"{out}: expected a name that ends in .gguf, or a directory for GPTQ, without an ending")
    if out.exists() and not gguf and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists and is not an empty directory; choose another or remove it")


def _opened(source: Path) -> OwnModel:
    if source.is_dir():
        return open_checkpoint(source)
    return open_onnx(source)


if __name__ == "__main__":
    sys.exit(main())
