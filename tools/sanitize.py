"""`python -m tools.sanitize [--only asan tsan]`: the library under sanitizers, and the tests that run its code.

asan is the address and the undefined-behavior sanitizer, tsan that of threads. Each library is built by its preset and
loaded into an ordinary Python by LD_PRELOAD of the sanitizer's own; Python, NumPy and ONNX Runtime are not
instrumented, so what a sanitizer reports is in this library, or in memory and locks that it shares with them. What is
theirs alone is listed in tools/sanitizers. Any report of ours ends the tests and makes the exit code 1. Linux and GCC.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from dualbinary import DualBinaryError, InputError
from dualbinary.cli import console
from tools.built_isas import skipped_isas
from tools.cmake_presets import build_preset

__all__ = ["main"]

ROOT = Path(__file__).resolve().parents[1]
SUPPRESSIONS = Path(__file__).parent / "sanitizers"
RUNTIME = "tests/runtime/test_"
TESTS = {
    "asan": tuple(
        f"{RUNTIME}{name}.py"
        for name in ("kernels", "hadamard", "layouts", "validation", "op", "blocks", "codes", "packed", "concurrency")
    ),
    # Threads meet in products of sessions, in blocks and in packed weights; kernels alone have none.
    "tsan": tuple(f"{RUNTIME}{name}.py" for name in ("concurrency", "packed", "op", "blocks")),
}
LIBRARIES = {"asan": ("libasan.so", "libubsan.so"), "tsan": ("libtsan.so",)}
# The thread sanitizer wants its addresses where the system puts them unless told to shuffle.
WRAPPER = {"asan": (), "tsan": ("setarch", "-R")}
REPORT = re.compile(r"(?:ERROR: (?:Address|Leak)Sanitizer|WARNING: ThreadSanitizer|runtime error): ?.*")
PASSED = re.compile(r"(\d+) passed")


@dataclass(frozen=True)
class Row:
    """What one sanitizer said of the tests."""

    sanitizer: str
    passed: int
    reports: tuple[str, ...]
    seconds: float


def options(log: Path) -> dict[str, str]:
    """Environment of the sanitizers. Each writes its reports to files that begin with `log`."""
    common = f"log_path={log}:exitcode=86"
    # Accesses of modules that are not instrumented, such as NumPy's, are ordered by what the sanitizer does not see.
    threads = f"{common}:suppressions={SUPPRESSIONS / 'threads.txt'}:ignore_noninstrumented_modules=1"
    return {
        # Python keeps what it allocates until it exits, and is asked about leaks of this library alone.
        "ASAN_OPTIONS": f"{common}:detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1",
        "UBSAN_OPTIONS": f"{common}:print_stacktrace=1:halt_on_error=1",
        "LSAN_OPTIONS": f"suppressions={SUPPRESSIONS / 'leaks.txt'}:print_suppressions=0",
        "TSAN_OPTIONS": f"{threads}:halt_on_error=0:second_deadlock_stack=1",
        "PYTHONMALLOC": "malloc",
    }


def preloaded(sanitizer: str) -> str:
    """The sanitizer's libraries, which the compiler names. Raises InputError where it has none."""
    compiler = shutil.which(os.environ.get("CXX") or "g++")
    if compiler is None:
        raise InputError("g++: not found, and it brings the sanitizers' libraries; install it (Debian: g++)")
    paths = []
    for name in LIBRARIES[sanitizer]:
        command = [compiler, f"-print-file-name={name}"]
        path = Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
        if not path.is_absolute():
            raise InputError(f"{name}: {compiler} has none; name a GCC by CXX, or install libgcc-dev of its version")
        paths.append(str(path.resolve()))
    return ":".join(paths)


def build(sanitizer: str, jobs: int) -> Path:
    """Build the library of a preset, and return its path. Raises DualBinaryError where that fails."""
    skipped = (f"-DDUALBINARY_SKIP_ISAS={';'.join(skipped_isas())}",)
    build_preset(sanitizer, jobs, settings=skipped, targets=("dualbinary",))
    return ROOT / "build" / sanitizer / "libdualbinary.so"


def run_tests(sanitizer: str, library: Path, tests: list[str]) -> Row:
    """Run tests against the library. Raises DualBinaryError where they fail without a report."""
    folder = ROOT / "out" / "sanitize" / sanitizer
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    environment = {
        **os.environ,
        **options(folder / "report"),
        "LD_PRELOAD": preloaded(sanitizer),
        "DUALBINARY_LIBRARY": str(library),
    }
    command = [*WRAPPER[sanitizer], sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    begin = time.perf_counter()
    with (folder / "tests.txt").open("w+", encoding="utf-8") as out:
        done = subprocess.run(
            [*command, *(tests or TESTS[sanitizer])],
            cwd=ROOT,
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
            check=False,
        )
        out.seek(0)
        words = out.read()
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in sorted(folder.glob("report*"))]
    reports = tuple(line for text in [words, *texts] for line in REPORT.findall(text))
    passed = PASSED.search(words)
    if not reports and (done.returncode != 0 or passed is None):
        raise DualBinaryError(f"{sanitizer}: the tests failed ({done.returncode}): {words.strip()[-2000:]}")
    return Row(sanitizer, int(passed[1]) if passed else 0, reports, time.perf_counter() - begin)


def command(args: argparse.Namespace) -> None:
    """Build and test with each sanitizer."""
    if sys.platform != "linux":
        raise InputError(f"expected Linux, whose sanitizers can be preloaded; got {sys.platform}")
    rows = []
    for sanitizer in args.only or TESTS:
        print(f"{sanitizer}: building", file=sys.stderr, flush=True)
        library = build(sanitizer, args.jobs)
        print(f"{sanitizer}: testing", file=sys.stderr, flush=True)
        row = run_tests(sanitizer, library, args.tests)
        rows.append(row)
        if not args.json:
            print(
                f"{row.sanitizer:<6} {row.passed:>6} tests {len(row.reports):>4} reports {row.seconds:8.1f} s",
                flush=True,
            )
            print("".join(f"  {report}\n" for report in row.reports), end="", flush=True)
    if args.json:
        print(json.dumps({"sanitizers": list(map(asdict, rows))}))
    if found := sum(len(row.reports) for row in rows):
        raise DualBinaryError(f"{found} reports; they are whole in out/sanitize")


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.sanitize", description="Tests of the library under sanitizers."
    )
    parser.add_argument("tests", nargs="*", metavar="TEST", help="for pytest (default: those that run the library)")
    parser.add_argument("--only", nargs="+", choices=tuple(TESTS), metavar="NAME", help="asan, tsan (default: both)")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="compilers at once (default 2)")
    console.add_common_options(parser)
    return console.run(parser, command, argv)


if __name__ == "__main__":
    sys.exit(main())
