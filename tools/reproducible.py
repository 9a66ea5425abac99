"""`python -m tools.reproducible`: the library built twice, from two copies of the sources in folders of other names.

Equal bytes mean that whoever builds a version can compare what they got with what was published. The copies are what
git tracks here, changes included; the compiler is the same. Exit code 1 where a file differs.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from dualbinary import DualBinaryError
from dualbinary.cli import console
from tools.cmake_presets import build_preset

__all__ = ["copy_sources", "differences", "main"]

ROOT = Path(__file__).resolve().parents[1]
FILES = ("libdualbinary.so", "libdualbinary.a")
# Of unequal lengths, so that a path that is written somewhere also moves what follows.
NAMES = ("first", "another_folder/second")


def copy_sources(folder: Path) -> None:
    """Copy the files that git tracks, as they are now."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listing.split("\0")):
        if (ROOT / name).is_file() and not name.startswith(("docs/", "tests/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)


def build(folder: Path, jobs: int) -> Path:
    """Build the preset release there, and return its folder. Raises DualBinaryError where that fails."""
    build_preset("release", jobs, folder=folder)
    return folder / "build"


def differences(first: Path, second: Path) -> dict[str, str]:
    """By name of each file: empty where both folders have the same bytes, else where these begin to differ."""
    found = {}
    for name in FILES:
        one, other = (first / name).read_bytes(), (second / name).read_bytes()
        if one == other:
            found[name] = ""
            continue
        at = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
        found[name] = f"{len(one):,} and {len(other):,} bytes, from byte {at:,} on"
    return found


def command(args: argparse.Namespace) -> None:
    """Build twice and compare."""
    with tempfile.TemporaryDirectory(prefix="reproducible") as room:
        built = []
        for name in NAMES:
            print(f"building {name}", file=sys.stderr, flush=True)
            copy_sources(Path(room) / name)
            built.append(build(Path(room) / name, args.jobs))
        found = differences(*built)
        digests = {name: hashlib.sha256((built[0] / name).read_bytes()).hexdigest() for name in FILES}
    if args.json:
        print(json.dumps({name: {"difference": found[name], "sha256": digests[name]} for name in FILES}))
    else:
        for name in FILES:
            print(f"{name:<20} {found[name] or 'equal'}  sha256 of the first {digests[name]}")
    if any(found.values()):
        raise DualBinaryError("two builds of one state of the sources differ")


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.reproducible", description="Build the library twice and compare the bytes."
    )
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="compilers at once (default 2)")
    console.add_common_options(parser)
    return console.run(parser, command, argv)


if __name__ == "__main__":
    sys.exit(main())
