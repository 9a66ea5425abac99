"""Stop strings, however the text is cut into pieces."""

from hypothesis import given
from hypothesis import strategies as st

from runtime_ext.stop_strings import before_stop

TEXTS = st.text("ab", max_size=12)


@given(TEXTS, st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.data())
def test_a_text_ends_before_the_first_stop_however_it_is_cut(text, stops, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    expected = text[: min((text.index(stop) for stop in stops if stop in text), default=len(text))]
    assert "".join(before_stop(pieces, stops)) == expected


def test_text_comes_as_soon_as_it_is_certain_and_nothing_is_asked_for_after_a_stop():
    asked: list[str] = []

    def pieces():
        for piece in ("ab", "cd", "EN", "x", "EN", "D", "more"):
            asked.append(piece)
            yield piece

    assert list(before_stop(pieces(), ["END"])) == ["ab", "cd", "ENx"]
    assert asked[-1] == "D"
