"""Letters and names of layouts on the glossary page are those of the contract."""

import re
from pathlib import Path

from dualbinary import OP

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "glossary.md").read_text(encoding="utf-8")


def table(heading: str) -> list[list[str]]:
    """Rows of the first table below a heading, without its head."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = re.search(r"(?m)^\|(.|\n\|)*", section)
    assert lines is not None
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[0].splitlines()[2:]]


def test_letters_are_those_of_the_contract():
    assert {row[0] for row in table("Letters")} == set(OP.symbols)


def test_layouts_have_the_names_and_numbers_of_the_contract():
    assert [(row[0].strip("`"), int(row[1])) for row in table("Layouts")] == [
        (layout.name, layout.number) for layout in OP.layouts
    ]
