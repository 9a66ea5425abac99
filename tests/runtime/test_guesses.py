"""Guesses from a text, and how many of them there are."""

from hypothesis import given
from hypothesis import strategies as st

from runtime_ext.sampling import Sampler
from runtime_ext.speculation import NgramGuesser, Pace

# Guesses from the text


def followed(tokens, count, sizes=(4, 3, 2)):
    """The definition: search backwards for the last n tokens, and copy what followed."""
    for size in sizes:
        for end in range(len(tokens) - 1, size - 1, -1):
            if len(tokens) >= size and tokens[end - size : end] == tokens[-size:]:
                text = list(tokens)
                for place in range(end, end + count):
                    text.append(text[place])
                return size, text[len(tokens) :]
    return None, []


@given(st.lists(st.lists(st.integers(0, 2), max_size=6), max_size=8), st.integers(1, 7))
def test_a_guess_is_what_followed_the_longest_match_the_last_time(pieces, count):
    guesser, tokens = NgramGuesser(), []
    guesser.start((), 0)
    for piece in pieces:
        guesser.extend(piece)
        tokens += piece
        kind, expected = followed(tokens, count)
        assert guesser.look() == kind
        assert guesser.guess(count, Sampler()).tokens == expected


def test_a_new_sequence_does_not_know_the_old_one():
    guesser = NgramGuesser()
    guesser.start([1, 2, 3, 1, 2], 0)
    assert guesser.guess(1, Sampler()).tokens == [3]
    guesser.start([1, 2], 0)
    assert guesser.look() is None


# How many


def run_for(pace, tokens, cost, right):
    """Feed a pace with runs of `cost(rows)` seconds, in which a guess is right with what `right` gives; rows taken."""
    rows = []
    for _ in range(tokens):
        count = pace.count(4, 7)
        pace.ran(1 + count, cost(1 + count))
        if count:
            pace.judged(4, count, min(count, right()))
        rows.append(1 + count)
    return rows


def test_as_many_are_guessed_as_pay():
    assert run_for(Pace(), 60, lambda rows: 1 + 0.05 * rows, lambda: 7)[-1] == 8  # cheap, and always right
    assert sum(row > 1 for row in run_for(Pace(), 200, lambda rows: float(rows), lambda: 7)) < 10  # a row costs a run
    assert 1 < run_for(Pace(), 60, lambda rows: 1 + 0.4 * rows, lambda: 2)[-1] < 8


def test_what_is_never_right_is_tried_seldom_and_again():
    rows = run_for(Pace(), 400, lambda rows: 1 + 0.2 * rows, lambda: 0)
    assert 0 < sum(row > 1 for row in rows[200:]) < 30
    pace = Pace()
    run_for(pace, 200, lambda rows: 1 + 0.2 * rows, lambda: 0)
    assert run_for(pace, 200, lambda rows: 1 + 0.2 * rows, lambda: 7)[-1] > 4


def test_one_slow_run_does_not_end_it():
    pace = Pace()
    run_for(pace, 60, lambda rows: 1 + 0.1 * rows, lambda: 7)
    pace.ran(8, 1000.0)
    assert run_for(pace, 1, lambda rows: 1 + 0.1 * rows, lambda: 7) == [8]


def test_a_slow_draft_guesses_less():
    fast, slow = Pace(), Pace(guess_seconds=0.5)
    for pace in (fast, slow):
        pace.ran(1, 1.0)
    assert slow.count(0, 7) < fast.count(0, 7)
