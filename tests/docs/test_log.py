"""The log's index: it has a row for what every page tells."""

import re
from pathlib import Path

import pytest

LOG = Path(__file__).resolve().parents[2] / "docs" / "log"
PAGES = sorted(set(LOG.glob("*.md")) - {LOG / "README.md"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_entries_of_a_day_have_a_row_of_that_day(page):
    days = set(re.findall(r"(?m)^## ([\d-]+): ", page.read_text(encoding="utf-8")))
    rows = re.findall(r"(?m)^\| ([\d-]+) \|.*\| (.*) \|$", (LOG / "README.md").read_text(encoding="utf-8"))
    assert days == {day for day, links in rows if f"({page.name})" in links}
