"""Budget and rules of tracked files that a linter does not know.

    python tools/check_files.py     exit 1 and one line for each finding

Checks that source files and functions stay short, that no file is large without a reason, that nothing names a path of
one person's machine, that C++ files include in the order of docs/architecture.md, that links between the Markdown pages
lead somewhere, and the rules of tests/ (check_tests.py).
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import check_tests

ROOT = Path(__file__).resolve().parent.parent

SOURCE_SUFFIXES = {".py", ".c", ".cc", ".h", ".inc", ".cu", ".cuh", ".cmake"}
# Longer ones are split by what changes together.
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
# Larger files make every clone slower; give the reason here.
MAX_BYTES = 1 << 20
LARGE_FILES: dict[str, str] = {}

# Directories of runtime_ext/src, and those whose headers each may include beside its own.
CPP = "runtime_ext/src"
CPP_INCLUDES = {
    "ort": ("capi", "core", "kernels"),
    "capi": ("core", "cuda", "kernels"),
    "cuda": ("core", "cuda/simt", "kernels"),
    "cuda/simt": (),
    "core": ("kernels",),
    "kernels": ("simd",),
    "simd": (),
}
CPP_INCLUDE = re.compile(r'^#include "([\w/]+)/[\w.-]+"', re.MULTILINE)

# A path into somebody's home, temporary or work directory means nothing on another machine.
MACHINE_PATH = re.compile(r"(?<![\w.~$}/-])/(home|root|Users|tmp|work|mnt|scratch)/[\w.]")
MARKDOWN_LINK = re.compile(r"\[[^\]]*\]\((?!https?://|#)([^)#\s]+)(?:#[^)]*)?\)")


def main() -> int:
    """Print the findings and return the exit code."""
    findings = [finding for path in _tracked() for finding in _check(path)]
    print("\n".join(findings) or "file budget: nothing to report", file=sys.stderr if findings else sys.stdout)
    return 1 if findings else 0


def _tracked() -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    paths = (ROOT / name for name in listing.split("\0") if name)
    return [path for path in paths if path.is_file()]


def _check(path: Path) -> Iterator[str]:
    name = path.relative_to(ROOT).as_posix()
    size = path.stat().st_size
    if size > MAX_BYTES and name not in LARGE_FILES:
        yield f"{name}: {size:,} bytes, at most {MAX_BYTES:,}; make it at test time, or give a reason in LARGE_FILES"
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return
    lines = text.splitlines()
    if path.suffix in SOURCE_SUFFIXES and len(lines) > MAX_FILE_LINES:
        yield f"{name}: {len(lines)} lines, at most {MAX_FILE_LINES}; split it by what changes together"
    for number, line in enumerate(lines, 1):
        if MACHINE_PATH.search(line):
            yield f"{name}:{number}: names a path of one machine"
    if path.suffix == ".py":
        yield from _check_functions(name, text)
        if name.startswith("tests/"):
            yield from check_tests.findings(name, text)
    if name.startswith(f"{CPP}/"):
        yield from _check_includes(name, text)
    if path.suffix == ".md":
        for target in MARKDOWN_LINK.findall(text):
            if not (path.parent / target).exists():
                yield f"{name}: link to {target}, which is not there"


def _check_includes(name: str, text: str) -> Iterator[str]:
    room = Path(name).parent.relative_to(CPP).as_posix()
    for target in CPP_INCLUDE.findall(text):
        if target != room and target not in CPP_INCLUDES[room]:
            allowed = ", ".join(CPP_INCLUDES[room]) or "none beside its own"
            yield f"{name}: includes a header of {target}/; {room}/ may include {allowed}"


def _check_functions(name: str, text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            count = (node.end_lineno or node.lineno) - node.lineno + 1
            if count > MAX_FUNCTION_LINES:
                yield f"{name}:{node.lineno}: {node.name} has {count} lines, at most {MAX_FUNCTION_LINES}"


if __name__ == "__main__":
    sys.exit(main())
