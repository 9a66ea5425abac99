"""`python -m importer.inspect SOURCE`: what a model is, from headers; with --html a page with pictures."""

import argparse
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dualbinary.cli.console import add_common_options, interrupt_when_terminated, run
from dualbinary.cli.options import add_options, option, options_from
from dualbinary.errors import InputError

if TYPE_CHECKING:
    from importer.inspect.facts import ModelFacts
    from importer.inspect.source import Inspection

__all__ = ["InspectOptions", "main", "parser"]

PAGES = (".html", ".htm")  # what a page may replace

_EPILOG = """\
examples:
  dualbinary inspect model.Q4_K_M.gguf                  a model of another tool: what an import makes of it
  dualbinary inspect SmolLM2-135M-fdb                   a checkpoint: formats, bits, sizes
  dualbinary inspect OUT.onnx --densities               an export: operators, opsets, cache too; how full planes are
  dualbinary inspect OUT.onnx --html model.html         the same as one page with pictures
"""


@dataclass(frozen=True)
class InspectOptions:
    """Options of the command."""

    densities: bool = option(
        False, help="read all planes of an export or a checkpoint, and say how full they are; {html} does"
    )
    html: Path | None = option(
        None, help="write a page with pictures of an export or a checkpoint, which loads nothing", metavar="FILE"
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="dualbinary inspect",
        description="Say what a model is: one of another tool, a checkpoint, an export, or a plain directory.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("source", type=Path, metavar="SOURCE", help="a file, or a directory with config.json")
    add_options(result, InspectOptions)
    add_common_options(result)
    return result


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a model is complete; nothing may be fetched
    interrupt_when_terminated()
    return run(parser, _command, argv)


def _command(args: argparse.Namespace) -> None:
    from dualbinary.files.atomic import check_file, write_text
    from importer.inspect.facts import ModelFacts

    options = options_from(args, InspectOptions)
    if options.html is not None:
        check_file(options.html)
        if options.html.exists() and options.html.suffix not in PAGES:
            raise InputError(f"--html {options.html}: exists and is no page; choose a name that ends in {PAGES[0]}")
    found = _inspect(args.source, read=options.densities or options.html is not None)
    if options.html is not None:
        if not isinstance(found, ModelFacts):
            raise InputError(f"--html: {args.source} is neither an export nor a checkpoint, which pages are of")
        from importer.inspect.page import page_of

        write_text(options.html, page_of(found))
    if args.json:
        print(json.dumps({**found.to_dict(), "html": options.html and str(options.html)}))
        return
    print("\n".join(found.lines()))
    if options.html is not None:
        print(f"\npage: {options.html}")


def _inspect(source: Path, *, read: bool) -> "ModelFacts | Inspection":
    from importer.inspect.source import inspect_source

    if source.is_file() and source.suffix == ".onnx":
        from importer.inspect.export import export_facts

        return export_facts(source, read=read)
    from dualbinary.checkpoint import quantized_by, read_quantization_config
    from dualbinary.files.model_files import CONFIG_FILE, refuse_export_folder

    if source.is_dir():
        refuse_export_folder(source)
    if source.is_dir() and (source / CONFIG_FILE).is_file() and quantized_by(source) is None:
        config = read_quantization_config(source)
        if config is not None:
            from importer.inspect.checkpoint import checkpoint_facts

            return checkpoint_facts(source, config, read=read)
    return inspect_source(source)


if __name__ == "__main__":
    sys.exit(main())
