"""The factor of the learning rate over a run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calib.schedule import LAST, learning_rate, swap_probability


def factors(steps, warmup=0):
    return [learning_rate(step, steps, warmup) for step in range(steps)]


@given(st.integers(2, 300), st.integers(0, 300))
def test_it_rises_to_one_in_equal_steps_and_then_falls_to_the_last(steps, warmup):
    warmup = min(warmup, steps - 2)
    values = factors(steps, warmup)
    rising, falling = values[:warmup], values[warmup:]

    assert rising == [(step + 1) / warmup for step in range(warmup)]
    assert falling[0] == 1
    assert falling == sorted(falling, reverse=True)
    assert abs(falling[-1] - LAST) < 1e-12  # a cosine of pi in float64
    assert all(LAST - 1e-12 <= value <= 1 for value in falling)


@given(st.integers(0, 150))
def test_the_fall_is_symmetric_about_its_middle(half):
    values = factors(2 * half + 2)
    for left, right in zip(values, reversed(values), strict=True):
        assert abs(left + right - (1 + LAST)) < 1e-12


@given(st.integers(1, 20), st.integers(0, 40))
def test_a_run_that_is_shorter_than_its_warmup_only_rises(steps, more):
    warmup = steps + more
    assert factors(steps, warmup) == [(step + 1) / warmup for step in range(steps)]


def test_a_single_step_has_the_whole_rate():
    assert factors(1) == [1]


def test_swaps_fade_out_or_come_in():
    falling = [swap_probability(step, 5, 0.8, "falling") for step in range(5)]
    assert falling == pytest.approx([0.8, 0.6, 0.4, 0.2, 0])
    assert [swap_probability(step, 5, 0.8, "rising") for step in range(5)] == pytest.approx(falling[::-1])
    assert swap_probability(0, 1, 0.8, "falling") == 0.8
