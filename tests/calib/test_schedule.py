"""The factor of the learning rate over a run."""

from hypothesis import given
from hypothesis import strategies as st

from calib.schedule import LAST, learning_rate


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
