"""Rows and columns stored in another order than that of transformers, and tensors that are one module there."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualbinary import InputError
from importer.model import Numbers, PackedWeight, PlainTensor
from importer.readers.gguf.order import Order, joined

SIZE = 4  # of a group


def random_numbers(rng, N, groups, *, offset=False):
    step = rng.uniform(0.5, 1, (N, groups)).astype(np.float32)
    q = rng.integers(0, 16, (N, groups * SIZE)).astype(np.uint8)
    return Numbers(q, step, None if offset else 8.0, step / 2 if offset else None)


def weight_of(numbers):
    """[N, K] in the order of the inputs."""
    K = numbers.q.shape[1]
    step, offset = (None if it is None else it.repeat(K // it.shape[1], 1) for it in (numbers.step, numbers.offset))
    values = step * (numbers.q - 8.0) if offset is None else step * numbers.q + offset
    if numbers.order is None:
        return values
    found = np.empty_like(values)
    found[:, numbers.order] = values
    return found


@given(st.integers(1, 5), st.integers(1, 6), st.booleans(), st.sampled_from(["groups", "pairs", "none"]), st.integers())
def test_numbers_and_values_move_alike(N, groups, offset, moved, seed):
    rng = np.random.default_rng(abs(seed))
    numbers = random_numbers(rng, N, groups, offset=offset)
    K = groups * SIZE
    unit = {"groups": SIZE, "pairs": 2, "none": K}[moved]
    columns = (unit * rng.permutation(K // unit)[:, None] + np.arange(unit)).reshape(-1)
    order = Order(rng.permutation(N), columns)
    found = order.of_numbers(numbers)
    np.testing.assert_array_equal(weight_of(found), order.of_values(weight_of(numbers)))
    assert moved == "pairs" or found.order is None


def test_no_order_changes_nothing():
    numbers = random_numbers(np.random.default_rng(0), 3, 2)
    assert Order(None, None).of_numbers(numbers) is numbers


@pytest.mark.parametrize("offset", [True, False])
def test_weights_that_are_one_module_follow_each_other(offset):
    rng = np.random.default_rng(0)
    numbers = [replace(random_numbers(rng, N, 3, offset=offset), rounding=N / 10) for N in (2, 5)]
    parts = [PackedWeight("Q4_K", len(it.q), 3 * SIZE, 4, SIZE, 4.5, lambda it=it: it) for it in numbers]
    whole = joined("model.mlp.input.weight", parts)
    assert (whole.N, whole.K, whole.kind) == (7, 3 * SIZE, "Q4_K")
    np.testing.assert_array_equal(weight_of(whole.read()), np.concatenate([weight_of(it) for it in numbers]))
    assert whole.read().rounding == 0.5
    with pytest.raises(InputError, match=r"input.weight: one weight .* tensors of types Q4_K, Q6_K; expected one type"):
        joined("model.mlp.input.weight", [parts[0], replace(parts[1], kind="Q6_K")])


def test_plain_tensors_that_are_one_module_follow_each_other():
    values = [np.ones((2, 3), np.float32), np.zeros((1, 3), np.float32)]
    parts = [PlainTensor(it.shape, it.dtype, lambda it=it: it) for it in values]
    whole = joined("model.mlp.input.weight", parts)
    assert whole.shape == (3, 3)
    np.testing.assert_array_equal(whole.read(), np.concatenate(values))
