"""The benchmark of SignedHadamard from its command line to its table, on a shape that takes no time."""

import pytest

from benchmarks.kernels import hadamard

QUICK = ["--rounds", "1", "--seconds", "0"]


def test_the_command_prints_a_time_for_each_contender(capsys):
    assert hadamard.main(["--shapes", "96x32", "--rows", "1", "3", *QUICK]) == 0
    _, _, *rows = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert [row[:2] for row in cells] == [["96, 32", "1"], ["96, 32", "3"]]
    assert all(float(cell) >= 0 for row in cells for cell in row[2:])
    assert {len(row[2:]) for row in cells} == {len(hadamard.CONTENDERS)}


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("5120", "--shapes: expected INPUTSxBLOCK, such as 5120x1024, got 5120"),
        ("5120x1000", "--shapes: 5120x1000: block_size: expected a power of two from 2 to 32768, got 1000"),
        ("96x64", "--shapes: 96x64: signs: expected as many as inputs, a multiple of block_size=64"),
        ("-4x4", "--shapes: expected INPUTSxBLOCK"),
    ],
)
def test_a_wrong_shape_is_one_error_before_any_line(capsys, shape, message):
    assert hadamard.main([f"--shapes={shape}", *QUICK]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert not captured.out
