"""`python -m importer SOURCE CHECKPOINT`: a low-bit model of another tool to a checkpoint of this project."""

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from dualbinary import InputError
from dualbinary.cli.console import add_common_options, interrupt_when_terminated, run, state_of
from dualbinary.cli.options import add_options, option, options_from
from importer.checkpoint import ImportResult, write_model
from importer.inspect.source import inspect_source
from importer.model import rounding_note
from importer.readers import READERS, open_model

__all__ = ["ImportOptions", "main"]


@dataclass(frozen=True)
class ImportOptions:
    """Options of the command."""

    inspect: bool = option(False, help="say what SOURCE is, from its headers, and write nothing")
    requantize: bool = option(
        False, help="fit weights whose levels are not even (codebooks, floating-point codes) to four even bits"
    )
    quiet: bool = option(False, help="no progress bar")


_EXAMPLES = """\
examples:
  dualbinary import model.Q4_K_M.gguf checkpoint
  dualbinary import Llama-3.2-1B-GPTQ checkpoint

dualbinary export takes such a SOURCE too, and keeps no checkpoint; dualbinary inspect says what it is.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    formats = "\n".join(f"  {reader.name:<20} {reader.holds}" for reader in READERS)
    result = argparse.ArgumentParser(
        prog="python -m importer",
        description="Make a checkpoint of a model that another tool quantized. Its integers become planes as they are.",
        epilog=f"formats:\n{formats}\n\n{_EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("source", type=Path, metavar="SOURCE", help="a file, or a directory with config.json")
    result.add_argument(
        "checkpoint", type=Path, nargs="?", metavar="CHECKPOINT", help="directory to make; not with --inspect"
    )
    add_options(result, ImportOptions)
    add_common_options(result)
    return result


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a model is complete; nothing may be fetched
    interrupt_when_terminated()
    return run(parser, _command, argv, kept=_kept)


def _kept(args: argparse.Namespace) -> str:
    return "" if args.checkpoint is None else state_of(args.checkpoint)


def _command(args: argparse.Namespace) -> None:
    options = options_from(args, ImportOptions)
    if options.inspect == (args.checkpoint is not None):
        way = "leave CHECKPOINT out with --inspect" if options.inspect else "name the CHECKPOINT to make, or --inspect"
        raise InputError(f"{args.source}: {way}")
    if options.inspect:
        inspection = inspect_source(args.source)
        print(json.dumps(inspection.to_dict()) if args.json else "\n".join(inspection.lines()))
        return
    begin = time.perf_counter()
    model = open_model(args.source)
    progress = not options.quiet and sys.stderr.isatty()
    result = write_model(model, args.checkpoint, requantize=options.requantize, progress=progress)
    notes = [*model.notes, *_notes(result)]
    if args.json:
        summary = {"checkpoint": str(args.checkpoint), "format": model.format, "weights": len(result.formats)}
        print(json.dumps({**summary, "seconds": round(time.perf_counter() - begin, 1), "notes": notes}))
        return
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    exact = len(result.formats) - len(result.fitted)
    print(
        f"{args.checkpoint}: {exact} of {len(result.formats)} weights of {args.source.name} ({model.format}) as they "
        f"are, in {time.perf_counter() - begin:.1f} s"
    )


def _notes(result: ImportResult) -> list[str]:
    notes = []
    if result.rounding:
        notes.append(rounding_note(result.rounding))
    if result.fitted:
        module, largest = max(result.fitted.items(), key=lambda entry: entry[1])
        notes.append(
            f"{len(result.fitted)} weights fitted again, relative squared errors up to {largest:.1e} ({module})"
        )
    return notes


if __name__ == "__main__":
    sys.exit(main())
