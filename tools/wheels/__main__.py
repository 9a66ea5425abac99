"""`python -m tools.wheels [SYSTEM...] [--out dist]`: build and check the wheels of these systems, or of all.

Without names of systems the source distribution is built, too.
"""

import argparse
import json
import sys
from pathlib import Path

from dualbinary.cli.console import add_common_options, run
from tools.wheels.build import build_sdist, build_wheel
from tools.wheels.check import WheelFacts, check_wheel
from tools.wheels.targets import targets

__all__ = ["main"]


def _command(args: argparse.Namespace) -> None:
    rows = []
    for target in targets(args.systems):
        facts = check_wheel(build_wheel(target, args.out), target)
        rows.append(_row(target.of.name, facts))
        if not args.json:
            print(_line(rows[-1]), flush=True)
    sdist = None if args.systems else build_sdist(args.out)
    if args.json:
        print(json.dumps({"wheels": rows, "sdist": str(sdist) if sdist else None}))
    elif sdist:
        print(f"source           {sdist.stat().st_size / 1e6:6.2f} MB  {sdist.name}")


def _row(system: str, facts: WheelFacts) -> dict[str, object]:
    return {
        "system": system,
        "wheel": facts.file.name,
        "bytes": facts.bytes,
        "library_bytes": facts.library_bytes,
        "oldest": facts.library.oldest,
        "exports": len(facts.library.exports),
        "imports": facts.library.imports,
        "signed": facts.library.signed,
    }


def _line(row: dict[str, object]) -> str:
    sizes = f"{int(str(row['bytes'])) / 1e6:6.2f} MB, library {int(str(row['library_bytes'])) / 1e6:5.2f} MB"
    return f"{row['system']!s:16} {sizes}  {row['oldest']!s:11} {row['exports']} exports  {row['wheel']}"


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m tools.wheels", description="Build the wheels of all systems.")
    parser.add_argument("systems", nargs="*", metavar="SYSTEM", help="such as linux-x64 windows-x64; default: all")
    parser.add_argument("--out", type=Path, default=Path("dist"), help="folder of the wheels (default dist)")
    add_common_options(parser)
    return run(parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
