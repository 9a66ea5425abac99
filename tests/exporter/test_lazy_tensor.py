"""Recorded operations give what running them gives."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dualbinary import InputError
from exporter.source.lazy_tensor import evaluate, lazy_tensor, row_origins, stored_name, stored_names

OPERATIONS = {
    "transpose": lambda t: t.t(),
    "rows reversed": lambda t: t.flip(0),
    "first half of rows": lambda t: t[: max(1, len(t) // 2)],
    "plus one": lambda t: t + 1.0,
    "times": lambda t: t * 0.5,
    "split and join": lambda t: torch.cat(list(t.split(2, dim=0))[::-1]),
    "heads interleaved": lambda t: t.view(2, -1, t.shape[1]).permute(1, 0, 2).reshape(t.shape[0], t.shape[1]),
    "joined with itself": lambda t: torch.cat([t, t]),
    "half": lambda t: t.to(torch.float16).float(),
}


def run(names, tensor):
    for name in names:
        if name == "heads interleaved" and (tensor.shape[0] % 2 or not tensor.is_contiguous()):
            continue
        tensor = OPERATIONS[name](tensor)
    return tensor


@given(
    names=st.lists(st.sampled_from(sorted(OPERATIONS)), max_size=5),
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
)
def test_evaluating_a_record_equals_running_it(names, rows, columns):
    tensor = torch.arange(rows * columns, dtype=torch.float32).reshape(rows, columns)
    reads = []

    def read(name):
        reads.append(name)
        return tensor

    record = run(names, lazy_tensor("w", (rows, columns), torch.float32))

    assert not reads  # nothing was read while recording
    expected = run(names, tensor)
    assert record.shape == expected.shape
    assert torch.equal(evaluate(record, read), expected)
    assert stored_names(record) == {"w"}


@given(
    names=st.lists(
        st.sampled_from(["rows reversed", "first half of rows", "split and join", "joined with itself"]), max_size=6
    ),
    transposed=st.booleans(),
)
def test_row_origins_finds_every_row(names, transposed):
    tensor = torch.randn(8, 6)
    record = lazy_tensor("w", (8, 6), torch.float32)
    start = (lambda t: t.t()) if transposed else (lambda t: t)

    result = run(names, start(record))

    found = [origin.matrix_of(tensor)[origin.rows] for origin in row_origins(result, "parameter")]
    assert torch.equal(torch.cat(found), run(names, start(tensor)))


def test_row_origins_follows_rows_of_several_tensors():
    first, second = lazy_tensor("a", (3, 4), torch.float32), lazy_tensor("b", (2, 4), torch.float32)

    origins = row_origins(torch.cat([second, first[1:], second[:1]]), "parameter")

    assert [(o.name, o.rows.tolist()) for o in origins] == [("b", [0, 1]), ("a", [1, 2]), ("b", [0])]


@given(expert=st.integers(0, 2), transposed=st.booleans(), step=st.integers(1, 2))
def test_row_origins_finds_rows_of_one_expert_among_many(expert, transposed, step):
    tensor = torch.randn(3, 8, 6)
    start = (lambda t: t[expert].t()) if transposed else (lambda t: t[expert])

    (origin,) = row_origins(start(lazy_tensor("w", (3, 8, 6), torch.float32))[::step], "parameter")

    assert (origin.name, origin.matrix) == ("w", expert)
    assert torch.equal(origin.matrix_of(tensor)[origin.rows], start(tensor)[::step])


@pytest.mark.parametrize(
    "mix",
    [lambda t: t * 2, lambda t: t + t.flip(0), lambda t: t.reshape(-1, 2 * t.shape[1]), lambda t: t.flip(1)],
    ids=["scaled", "summed", "reshaped", "columns reversed"],
)
def test_row_origins_refuses_what_planes_cannot_follow(mix):
    with pytest.raises(InputError, match="parameter: the graph mixes the rows of w"):
        row_origins(mix(lazy_tensor("w", (4, 6), torch.float32)), "parameter")


def test_values_cannot_decide_what_is_recorded():
    record = lazy_tensor("w", (2, 2), torch.float32)

    with pytest.raises((InputError, RuntimeError)):
        bool((record > 0).all())
    with pytest.raises(InputError, match="in place"):
        record.add_(1)
    assert stored_name(record) == "w"
    assert stored_name(record + 1) is None
