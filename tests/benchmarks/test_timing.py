"""The arithmetic that every figure of the benchmarks goes through."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.common.timing import in_turn, interleave, ratio, summarize

TIMES = st.lists(st.floats(1e-6, 10), min_size=1, max_size=20)


@given(TIMES)
def test_a_summary_has_the_median_the_best_and_the_middle_half(times):
    summary = summarize(times)
    low, high = np.percentile(times, [25, 75])
    # float64 sums of two values, in another order
    assert summary.median == pytest.approx(np.median(times), rel=1e-12)
    assert summary.best == min(times)
    assert summary.spread == pytest.approx((high - low) / np.median(times), rel=1e-9, abs=1e-9)


def test_a_ratio_is_of_medians_and_its_range_is_of_rounds():
    own, other = [1.0, 2.0, 9.0], [3.0, 4.0, 9.0]
    found = ratio(other, own)
    assert found.median == 4.0 / 2.0  # of the best times it would be 3, of the means 4/3
    assert (found.low, found.high) == (1.5, 2.5)  # of 1, 2 and 3


def test_a_ratio_needs_the_same_rounds():
    with pytest.raises(ValueError, match="zip"):
        ratio([1.0, 2.0], [1.0])


def test_each_round_begins_with_another():
    assert [in_turn("abc", count) for count in range(4)] == [list("abc"), list("bca"), list("cab"), list("abc")]


def test_every_work_has_its_turn_in_every_round_and_the_first_round_does_not_count():
    calls = []
    times = interleave({name: lambda name=name: calls.append(name) for name in "abc"}, rounds=3, seconds=0)
    assert {name: len(each) for name, each in times.items()} == {"a": 3, "b": 3, "c": 3}
    # Each turn is one call to warm up and one that counts; each round begins with the next name.
    assert "".join(calls) == "aabbcc" + "bbccaa" + "ccaabb" + "aabbcc"
