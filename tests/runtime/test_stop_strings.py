"""Stop strings, however the text is cut into pieces."""

from hypothesis import example, given
from hypothesis import strategies as st

from runtime_ext.stop_strings import before_stop

TEXTS = st.text("ab", max_size=12)


@given(TEXTS, st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.lists(st.integers(0, 12), max_size=6))
@example("aba", ["aba", "b"], [1, 2])
@example("aba", ["aba", "b"], [])
def test_a_text_ends_before_the_first_whole_stop_however_it_is_cut(text, stops, cuts):
    cuts = sorted(min(cut, len(text)) for cut in cuts)
    pieces = [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    known = next((text[:end] for end in range(len(text) + 1) if any(text[:end].endswith(stop) for stop in stops)), None)
    expected = text if known is None else known[: len(known) - max(len(s) for s in stops if known.endswith(s))]
    assert "".join(before_stop(pieces, stops)) == expected


def test_text_comes_as_soon_as_it_is_certain_and_nothing_is_asked_for_after_a_stop():
    asked: list[str] = []

    def pieces():
        for piece in ("ab", "cd", "EN", "x", "EN", "D", "more"):
            asked.append(piece)
            yield piece

    assert list(before_stop(pieces(), ["END"])) == ["ab", "cd", "ENx"]
    assert asked[-1] == "D"
