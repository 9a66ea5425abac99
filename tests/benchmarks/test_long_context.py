"""Decoding behind filled caches: the command on a tiny model, and states of llama.cpp that are made longer."""

import json
import struct
from dataclasses import replace

import pytest

from benchmarks.models import long_context
from benchmarks.models.filled_cache import longer_state
from tests.support.commands_here import run_here

CELLS, ROW = 64, 3


def state(cells: int, layers: int = 2, rows: int | None = None) -> bytes:
    """The state of a sequence as llama.cpp writes it: row i of a tensor is its number and i."""
    parts = [b"8 bytes.", struct.pack("<II", 1, cells)]
    parts += [struct.pack("<iII", place, 1, 0) for place in range(cells)]
    parts.append(struct.pack("<II", 0, layers))
    for tensor in range(2 * layers):
        parts.append(struct.pack("<iQ", 8, ROW))
        parts += [bytes([tensor, i % CELLS, 7]) for i in range(cells if rows is None else rows)]
    return b"".join(parts)


@pytest.mark.parametrize("length", [1, 64, 200])
def test_a_longer_state_repeats_the_rows(length):
    assert longer_state(state(CELLS), length) == state(length)


@pytest.mark.parametrize("other", [state(CELLS - 1), state(CELLS, rows=CELLS - 1), state(CELLS) + b"x"])
def test_a_state_of_another_form_is_refused(other):
    with pytest.raises(SystemExit, match="expected"):
        longer_state(other, 100)


def test_the_command_makes_files_and_measures(tmp_path, monkeypatch, capsys):
    tiny = replace(long_context.SHAPE, hidden=256, intermediate=256, vocabulary=256, heads=4, kv_heads=2)
    monkeypatch.setattr(long_context, "SHAPE", tiny)
    monkeypatch.setattr(long_context, "VARIANTS", [v for v in long_context.VARIANTS if v.cache == "int8"])
    ran = run_here(monkeypatch)
    options = ["--contexts", "8", "40", "--threads", "1", "--rounds", "1", "--layers", "1", "--no-peers", "--json"]

    assert long_context.main([*options, "--work", str(tmp_path)]) == 0

    assert ran == ["exporter", "importer"]
    result = json.loads(capsys.readouterr().out)
    assert (result["layers"], result["context"] > 40) == (1, True)
    (row,) = result["rows"]
    assert (row["variant"], row["threads"]) == ("dualbinary int8", 1)
    assert set(row["seconds"]) == {"8", "40"}
    assert min(row["seconds"].values()) > 0
    assert long_context.main(["--clock", "cpu", "--threads", "2"]) == 2
    for layers, made in (("1", 1), ("2", 2)):  # the model of before, and another one
        assert long_context.main([*options, "--layers", layers, "--work", str(tmp_path)]) == 0
        assert ran.count("exporter") == made
