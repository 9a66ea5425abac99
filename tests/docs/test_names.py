"""Files and modules that the pages name are there; links between pages are checked by tools/check_files.py."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))]
ROOMS = "benchmarks|calib|docs|dualbinary|examples|exporter|runtime_ext|studies|tests|tools"
FILE = re.compile(rf"(?<![\w/.<-])(?:{ROOMS})/[\w./-]*\w\.(?:cc|cu|h|inc|json|md|onnx|py|svg|toml)\b")
FOREIGN = {"docs/OperatorKernels.md"}  # of ONNX Runtime
MODULE = re.compile(rf"python -m ((?:{ROOMS})(?:\.\w+)*)|from ((?:{ROOMS})(?:\.\w+)*) import")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_and_modules_on_a_page_are_there(page):
    text = page.read_text(encoding="utf-8")
    files = set(FILE.findall(text))
    modules = {first or second for first, second in MODULE.findall(text)}
    missing = {file for file in files - FOREIGN if not (ROOT / file).exists()}
    missing |= {name for name in modules if not is_module(name)}
    assert missing == set()


def is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()
