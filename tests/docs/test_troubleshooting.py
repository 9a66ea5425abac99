"""Messages on the troubleshooting page exist in the code: a reworded one has to be reworded there, too."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
PACKAGES = ("calib", "dualbinary", "exporter", "runtime_ext")
OF_OTHERS = "\n## Messages of ONNX Runtime"
HOLE = "…"
LITERAL_OR_END = re.compile(r'"((?:[^"\\]|\\.)*)"|(;)')

# What OptionError puts around what it is given; the option stands in it as a field.
OPTION = re.compile(r"--[a-z-]+: expected (.*?)(?:, got …)?(?:; (.*))?")
FIELD = re.compile(r"{(\w+)}")

MESSAGES = re.findall(r"(?m)^\| `(.*?)` \|", PAGE.split(OF_OTHERS)[0])


@cache
def templates() -> tuple[str, ...]:
    """Each string that the product's code puts together, with a hole for each part that is not constant."""
    found: list[str] = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            found += filter(None, map(of_python, ast.walk(ast.parse(path.read_text(encoding="utf-8")))))
    for path in sorted((ROOT / "runtime_ext" / "src").rglob("*.*")):
        found += of_cpp(path.read_text(encoding="utf-8"))
    return tuple(FIELD.sub(lambda field: "--" + field[1].replace("_", "-"), text) for text in found)


def of_python(node: ast.AST) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(of_python(value) or HOLE for value in node.values)
    if isinstance(node, ast.BinOp):
        return (of_python(node.left) or HOLE) + (of_python(node.right) or HOLE)
    return ""


def of_cpp(text: str) -> Iterator[str]:
    """One string for each statement: its literals, with a hole where something stands between two."""
    statement, end = "", 0
    text = re.sub(r"(?m)^\s*//.*$", "", text)
    for token in LITERAL_OR_END.finditer(text):
        if token[2]:
            yield statement
            statement = ""
        else:
            statement += ("" if text[end : token.start()].isspace() else HOLE) + token[1]
        end = token.end()


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_of_the_page_is_in_the_code(message):
    option = OPTION.fullmatch(message)
    for part in filter(None, option.groups() if option else [message]):
        constants = [re.escape(constant.strip()) for constant in part.split(HOLE)]
        pattern = re.compile(".*".join(constants), re.DOTALL)
        assert any(pattern.search(template) for template in templates()), f"not in the code: {part}"


def test_the_page_has_messages_of_every_kind():
    assert len(MESSAGES) >= 40
