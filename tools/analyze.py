"""`python -m tools.analyze [--only NAME ..]`: clang-tidy, cppcheck and GCC's analyzer over the C++ sources.

Each is one row: what it found. .clang-tidy says which checks there are and why some are not;
what is not asked of the others stands here beside its reason. An analyzer that this machine lacks is named, with the
way to get it, and makes the exit code 2; a finding makes it 1.
"""

import argparse
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from dualbinary import DualBinaryError, InputError
from dualbinary.cli import console
from tools.cmake_presets import build_preset

__all__ = ["main"]

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "dev"
FINDING = re.compile(r"^(\S+?:\d+:\d+: (?:warning|error|portability|performance|style): .*)$", re.MULTILINE)
VERSIONS = range(25, 13, -1)  # of Clang, as Debian and Ubuntu name their programs
CPPCHECK = (
    "--quiet",
    "--std=c++20",
    "--enable=warning,performance,portability",
    "--inline-suppr",
    "--template={file}:{line}:{column}: {severity}: {message} [{id}]",
    # It does not know that an intrinsic, or a loop over all numbers, has filled a local array.
    "--suppress=uninitvar:*-inl.h",
    "--suppress=uninitvar:*avx512_block.h",
    # Memory of a call is bytes until its parts get their types.
    "--suppress=invalidPointerCast",
    # It takes a reference to a range's element for a local variable.
    "--suppress=returnStdMoveLocal",
    # It does not see that guarded() catches.
    "--suppress=throwInNoexceptFunction",
)
# The others of GCC 12's analyzer take what the C++ library does for what C would; these are about memory and hold.
GCC = (
    "-fanalyzer",
    "-Wno-analyzer-use-of-uninitialized-value",  # of members of std::optional and std::variant that are not there
    "-Wno-analyzer-possible-null-argument",  # operator new throws
    "-Wno-analyzer-possible-null-dereference",
    "-Wno-analyzer-malloc-leak",  # of what a std::unique_ptr holds
    "-Wno-analyzer-null-dereference",  # of elements of a std::vector, which it takes for empty
    "-Wno-analyzer-null-argument",
)


@dataclass(frozen=True)
class Row:
    """What one analyzer said."""

    analyzer: str
    findings: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Unit:
    """A source file, and how it is compiled."""

    path: Path
    command: tuple[str, ...]
    folder: Path


def program(name: str, package: str) -> str:
    """Path of an analyzer, of the newest version. Raises InputError, with the way out, where there is none."""
    for candidate in (name, *(f"{name}-{version}" for version in VERSIONS)):
        if path := shutil.which(candidate):
            return path
    raise InputError(f"{name}: not found; install it (Debian: {package}), or choose others by --only")


def units() -> list[Unit]:
    """Every source file of the preset dev, which is configured here. Raises DualBinaryError where that fails."""
    build_preset("dev", 1, targets=("dualbinary_contract",))
    entries = json.loads((BUILD / "compile_commands.json").read_text(encoding="utf-8"))
    return [Unit(Path(e["file"]), tuple(shlex.split(e["command"])), Path(e["directory"])) for e in entries]


def each(jobs: int, body: Callable[[Unit], str], those: Iterable[Unit]) -> tuple[str, ...]:
    """What `body` prints for each unit, as findings without repetition: a header's are those of all that include it."""
    with ThreadPoolExecutor(jobs) as pool:
        texts = list(pool.map(body, those))
    found = [line.replace(f"{ROOT}/", "") for text in texts for line in FINDING.findall(text)]
    return tuple(dict.fromkeys(found))


def said(command: list[str], folder: Path = ROOT) -> str:
    """Standard output and error of an analyzer. Raises DualBinaryError where it fails without a finding."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    words = done.stdout + done.stderr
    if done.returncode != 0 and not FINDING.search(words):
        raise DualBinaryError(f"{shlex.join(command)}: {words.strip()[-2000:]}")
    return words


def clang_tidy(those: list[Unit], jobs: int) -> tuple[str, ...]:
    """The checks of .clang-tidy."""
    path = program("clang-tidy", "clang-tidy")
    # Clang does not know some options of GCC's, which are in the compile commands.
    command = [path, "--quiet", f"-p={BUILD}", "--extra-arg=-Wno-unknown-warning-option"]
    command += ["--extra-arg=-Wno-ignored-optimization-argument", "--extra-arg=-Wno-unused-command-line-argument"]
    return each(jobs, lambda unit: said([*command, str(unit.path)]), those)


def cppcheck(those: list[Unit], jobs: int) -> tuple[str, ...]:
    """Warnings, performance and portability."""
    command = [program("cppcheck", "cppcheck"), *CPPCHECK]
    includes = [f"-I{ROOT / 'runtime_ext' / 'src'}", f"-I{BUILD / 'runtime_ext' / 'generated'}"]
    return each(jobs, lambda unit: said([*command, *includes, str(unit.path)]), those)


def gcc(those: list[Unit], jobs: int) -> tuple[str, ...]:
    """-fanalyzer of GCC, over what is not written in vector instructions: those it gives up on."""
    path = program("g++", "g++")

    def analyze(unit: Unit) -> str:
        output = unit.command.index("-o")
        rest = [word for i, word in enumerate(unit.command) if i not in (0, output, output + 1) and word != "-Werror"]
        return said([path, *GCC, *rest, "-o", "/dev/null"], unit.folder)

    return each(jobs, analyze, [unit for unit in those if "kernels" not in unit.path.parts])


ANALYZERS = {"clang-tidy": clang_tidy, "cppcheck": cppcheck, "gcc": gcc}


def command(args: argparse.Namespace) -> None:
    """Run the analyzers one after another."""
    those = units()
    rows, missing = [], []
    for name in args.only or ANALYZERS:
        begin = time.perf_counter()
        try:
            findings = ANALYZERS[name](those, args.jobs)
        except InputError as error:
            missing.append(str(error))
            continue
        rows.append(Row(name, findings, time.perf_counter() - begin))
        if not args.json:
            print(f"{name:<12} {len(findings):>4} findings {rows[-1].seconds:8.1f} s", flush=True)
            print("".join(f"  {finding}\n" for finding in findings), end="", flush=True)
    if args.json:
        print(json.dumps({"analyzers": list(map(asdict, rows)), "missing": missing}))
    if missing:
        raise InputError("; ".join(missing))
    if found := sum(len(row.findings) for row in rows):
        raise DualBinaryError(f"{found} findings: fix them, or write the reason where the analyzer looks for it")


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m tools.analyze", description="Static analysis of the C++ sources.")
    parser.add_argument("--only", nargs="+", choices=tuple(ANALYZERS), metavar="NAME", help="some of them")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="files at once (default 2)")
    console.add_common_options(parser)
    return console.run(parser, command, argv)


if __name__ == "__main__":
    sys.exit(main())
