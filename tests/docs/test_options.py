"""Options that the pages name are options of a command, under the spelling that its help shows."""

import contextlib
import io
import re
import runpy
import sys
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOG = ROOT / "docs" / "log"  # quotes what was typed then
PAGES = [
    path
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
    if LOG not in path.parents and path.name != "bad_inputs.md"  # which has wrong ones
]
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9_-]*[a-z0-9]")
# Those whose help answers within a second or two; commands that import torch for it have few options of their own.
COMMANDS = (
    "runtime_ext eval", "runtime_ext doctor", "dualbinary bundle",
    "exporter", "importer", "importer.convert", "calib", "calib report", "dualbinary relayout", "importer.inspect",
    "runtime_ext generate", "runtime_ext chat", "runtime_ext serve", "runtime_ext bench", "runtime_ext info",
    "benchmarks.kernels.bench", "benchmarks.kernels.report", "benchmarks.cuda.bench", "benchmarks.cuda.products",
    "benchmarks.models.bench", "benchmarks.models.profile", "benchmarks.models.batch",
    "benchmarks.models.small_memory", "dualbinary.contract.codegen", "tools.faults", "tools.soak",
    "tools.gpu_calibrate", "tools.gpu_check",
)  # fmt: skip
# Of other programs (accelerate, hf, pip, dotnet, swift, cmake, ld, compute-sanitizer, prettier, examples/cpp_host), of
# scripts under tools/, and of studies.
FOREIGN = {
    "--num_processes", "--use_fsdp", "--fsdp_version", "--build", "--preset", "--tool",
    "--blocks", "--hellaswag", "--model", "--model_args", "--upgrade", "--tasks", "--write", "--install",
    "--prefix", "--strip", "--config", "--cflags", "--libs", "--gc-sections", "--export-dynamic-symbol", "--genai",
    "--system", "--context", "--ids", "--max-tokens", "--seconds", "--project",
    "--package-path", "--local-dir", "--platform",
}  # fmt: skip
CHAT = ROOT / "examples" / "node" / "chat.js"  # shows its options in a text of its own, where Node.js is missing too


@pytest.fixture(scope="module")
def shown() -> set[str]:
    flags = {"--help", *FLAG.findall(CHAT.read_text(encoding="utf-8"))}
    for command in COMMANDS:
        flags |= set(FLAG.findall(help_of(command)))
    return flags


def help_of(command: str) -> str:
    """What `python -m command --help` prints, in this process: a start of Python takes longer than the help."""
    module, *words = command.split()
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a module that a package of its imports runs a second time
        patch.setattr(sys, "argv", [module, *words, "--help"])
        with pytest.raises(SystemExit) as ended:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    assert not ended.value.code, command
    return said.getvalue()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_options_on_a_page_are_shown_by_a_command(page, shown):
    named = set(FLAG.findall(page.read_text(encoding="utf-8")))
    assert named - shown - FOREIGN == set()
