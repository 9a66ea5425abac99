"""`python -m benchmarks.kernels.builds`: a row for each product, from two builds in one process."""

import json

import runtime_ext
from benchmarks.kernels import builds


def test_two_builds_give_a_row_for_each_product(monkeypatch, capsys):
    monkeypatch.setattr(builds, "BYTES", 1)
    library = str(runtime_ext.library_path())
    assert builds.main([library, library, "--rows", "1", "3", "--rounds", "1", "--seconds", "0", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    expected = {(form, level, rows) for form in builds.FORMS for level in (0, 4) for rows in (1, 3)}
    assert {(row["form"], row["accuracy_level"], row["rows"]) for row in rows} == expected
    assert all(0 < row["low"] <= row["ratio"] <= row["high"] for row in rows)


def test_what_is_no_library_is_named(tmp_path, capsys):
    other = tmp_path / "other.so"
    other.write_bytes(b"no library")
    assert builds.main([str(runtime_ext.library_path()), str(other)]) == 2
    assert f"error: {other} is not a usable dualbinary library" in capsys.readouterr().err
