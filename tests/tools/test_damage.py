"""Every damaged input of the inventory is refused in one sentence, and the page lists them all."""

import re
from pathlib import Path

import pytest

from exporter import installed_library
from tools.damage import bases
from tools.damage.__main__ import cases, faults, page
from tools.damage.case import Case, give
from tools.damage.requests import answers, requests

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "bad_inputs.md"
CASES = cases()
ENTRIES = list(dict.fromkeys(case.entry for case in CASES))


def rows(text: str) -> list[list[str]]:
    """What was damaged, what read it, and the code; sentences of libraries differ by their versions."""
    found = [re.split(r"(?<!\\)\|", line)[1:4] for line in text.splitlines() if line.startswith("| ")]
    return [cells for cells in found if cells[0].strip() not in ("damage", "---")]


@pytest.fixture(scope="module", autouse=True)
def library_is_looked_for_once():
    """Each export asks a child process for the library, which takes most of the time of one that is refused."""
    found = installed_library.installed_library()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(installed_library, "installed_library", lambda: found)
        yield


@pytest.mark.parametrize("entry", ENTRIES)
def test_damaged_inputs_are_refused_in_a_sentence(entry):
    wrong = {}
    for case in CASES:
        if case.entry == entry and (found := list(faults(case, give(case)))):
            wrong[case.damage] = found
    assert not wrong


def test_damaged_requests_are_refused_and_the_engine_goes_on():
    asked = list(requests())
    replies = dict(zip((request.damage for request in asked), answers(asked), strict=True))
    assert {
        damage: status for damage, (status, message) in replies.items() if not (400 <= status < 500 and message)
    } == {}


def test_the_page_lists_them_all():
    found = [(case, give(Case(case.entry, case.damage, {}, ("fly",)))) for case in CASES]
    replies = [(request, (400, "")) for request in requests()]
    listed = rows(PAGE.read_text(encoding="utf-8"))
    expected = [cells[:1] for cells in rows(page(found, replies))]
    assert [cells[:1] for cells in listed] == expected
    assert len(listed) >= 150
    assert all(code.strip() == "2" or 400 <= int(code) < 500 for _, _, code in listed)


WHOLE = {
    "a checkpoint": (bases.checkpoint, ("inspect", "{dir}", "--densities")),
    "an index": (lambda: bases.checkpoint(0), ("inspect", "{dir}", "--densities")),
    "a GGUF file": (lambda: {"model.gguf": bases.gguf()}, ("inspect", "{dir}/model.gguf")),
    **{f"quantizer {number}": (lambda n=number: bases.quantizer(n), ("inspect", "{dir}")) for number in range(8)},
    "a decoder": (
        bases.decoder,
        ("generate", "{dir}/model.onnx", "--prompt", "Hi", "--chat", "--max-new-tokens", "1", "--no-library"),
    ),
    "a product": (bases.product, ("relayout", "{dir}/model.onnx", "{out}/model.onnx", "--layout", "avx2", "--quiet")),
}


@pytest.mark.parametrize(("files", "command"), WHOLE.values(), ids=WHOLE)
def test_what_is_whole_is_taken(files, command):
    """So that it is the damage that is refused."""
    assert give(Case("whole", "", files(), command)).code == 0
