"""`dualbinary bundle OUT --systems linux-x64,windows-x64`: lay the libraries of these systems beside a model."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dualbinary.bundle.libraries import bundled_libraries, write_libraries
from dualbinary.cli.console import add_common_options, interrupt_when_terminated, run
from dualbinary.cli.options import add_options, option, options_from
from dualbinary.errors import InputError
from dualbinary.files.staging import staged
from dualbinary.files.systems import SYSTEMS, named_systems

__all__ = ["BundleOptions", "main"]

_EPILOG = f"""\
systems:
  {", ".join(system.name for system in SYSTEMS[:4])},
  {", ".join(system.name for system in SYSTEMS[4:])}; all

A library comes out of a wheel of this package, which `make wheels` builds in a checkout. Hosts load it by the name of
their system: libdualbinary-linux-x64.so; docs/howto/bundle.md has the lines for each.
"""


@dataclass(frozen=True)
class BundleOptions:
    """Options of the command."""

    systems: str = option(help="systems, with commas between them, or all", metavar="NAMES")
    source: Path = option(Path("dist"), names=("--from",), help="folder of wheels, or of another bundle", metavar="DIR")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="dualbinary bundle",
        description="Lay the libraries of several systems beside an exported model.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("out", type=Path, metavar="OUT", help="the folder of an exported model, or its .onnx file")
    add_options(result, BundleOptions)
    add_common_options(result)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    interrupt_when_terminated()
    return run(parser, _command, argv, kept=lambda args: f"{args.out} has all of the libraries, or those that it had")


def _command(args: argparse.Namespace) -> None:
    options = options_from(args, BundleOptions)
    folder = args.out if args.out.is_dir() else args.out.parent
    if not any(folder.glob("*.onnx")):
        raise InputError(f"{args.out}: expected the folder of an exported model; {folder} has no .onnx file")
    libraries = bundled_libraries(named_systems(options.systems.split(",")), [options.source])
    with staged(folder) as stage:
        names = write_libraries(libraries, stage)
    if args.json:
        files = {library.system.name: library.system.file for library in libraries}
        print(json.dumps({"folder": str(folder), "libraries": files}))
        return
    size = sum(len(library.content) for library in libraries)
    print(f"{folder}: {', '.join(names)}, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    sys.exit(main())
