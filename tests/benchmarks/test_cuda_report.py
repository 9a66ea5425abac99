"""Figures, table and verdicts of the CUDA benchmark, from times that are given."""

import json

import pytest

from benchmarks.cuda import report as cuda_report
from benchmarks.cuda.report import FAIL, NOT_MEASURED, PASS

LARGE, SMALL = (8192, 8192), (2048, 2048)
READ = {"copy": {"bytes": 2_000, "seconds": [1e-9] * 3}, "sum": {"bytes": 3_000, "seconds": [1e-9, 2e-9, 1e-9]}}
RATE = 3_000 / 1e-9  # the better one


def record(shape, rows, *, ours, cublas=None, forced=None):
    """Seconds of a product; stored bytes such that ours reads at half the rate of the device in 1 second."""
    N, K = shape
    times = {"dualbinary-0": ours, "cublas-fp16": cublas, "dualbinary-0@slow": forced}
    contenders = {
        name: {
            "stored_bytes": RATE / 2,
            "seconds": {"replay": [seconds, 2 * seconds, seconds], "launch": [3 * seconds] * 3},
            **({"kernel": name} if name.startswith("dualbinary") else {}),
        }
        for name, seconds in times.items()
        if seconds is not None
    }
    missing = {} if cublas is not None else {"cublas-fp16": "out of memory"}
    point = {"key": f"{shape} {rows}", "N": N, "K": K, "M": rows, "G": 64}
    return {**point, "reads": READ, "contenders": contenders, "missing": missing}


def verdicts(*records):
    found = cuda_report.verdicts(cuda_report.results({"records": list(records)}))
    return [each["verdict"] for each in found]


def test_figures_follow_from_the_times():
    ours, cublas, forced = cuda_report.results({"records": [record(LARGE, 2, ours=1.0, cublas=6.0, forced=9.0)]})
    assert ours["us"] == pytest.approx(1e6)  # the median of replays
    assert ours["us_launched"] == pytest.approx(3e6)
    assert ours["of_read"] == pytest.approx(0.5)
    assert ours["GB/s"] == pytest.approx(RATE / 2 / 1e9)
    assert ours["TFLOP/s"] == pytest.approx(2 * 2 * 8192 * 8192 / 1e12)
    assert ours["ratios"]["cublas-fp16"]["median"] == pytest.approx(6)
    assert cublas["ratios"] == {}
    assert forced["ratios"]["cublas-fp16"]["median"] == pytest.approx(6 / 9)


def test_aims_are_reached_at_their_limits_and_missed_below():
    # 0.5 of the device's rate in a second: 0.75 of it in two thirds.
    decode, prefill = 0.5 / 0.75, 0.7
    assert verdicts(
        record(LARGE, 1, ours=decode * 0.999, cublas=5 * decode), record(LARGE, 128, ours=1.0, cublas=prefill * 1.001)
    ) == [PASS, PASS, PASS]
    assert verdicts(record(LARGE, 1, ours=decode * 1.01, cublas=6.0)) == [FAIL, PASS, NOT_MEASURED]
    assert verdicts(record(LARGE, 1, ours=0.5, cublas=2.4)) == [PASS, FAIL, NOT_MEASURED]
    assert verdicts(record(SMALL, 2048, ours=1.0, cublas=0.69))[2] == FAIL


def test_one_bad_point_is_enough_and_is_named():
    good, bad = record(LARGE, 512, ours=1.0, cublas=0.9), record(SMALL, 128, ours=1.0, cublas=0.6)
    found = cuda_report.verdicts(cuda_report.results({"records": [good, bad, good]}))[2]
    assert found["verdict"] == FAIL
    assert found["detail"] == "worst 0.60x at 2048x2048 M=128 G=64 dualbinary-0; 1 of 3 below"


def test_forced_kernels_small_matrices_and_few_rows_do_not_count():
    assert verdicts(
        record(LARGE, 1, ours=0.6, cublas=5.0, forced=100.0),
        record(SMALL, 1, ours=10.0, cublas=5.0),
        record(LARGE, 16, ours=10.0, cublas=5.0),
        record(LARGE, 128, ours=1.0, cublas=1.0, forced=100.0),
    ) == [PASS, PASS, PASS]


def test_an_aim_with_a_peer_that_is_missing_somewhere_is_not_measured():
    complete, without = record(LARGE, 1, ours=0.5, cublas=5.0), record((8192, 28672), 1, ours=0.5)
    assert verdicts(complete, without) == [PASS, NOT_MEASURED, NOT_MEASURED]


@pytest.mark.parametrize(("cublas", "code"), [(5.0, 0), (1.0, 1)])
def test_required_aims_decide_the_exit_code(tmp_path, capsys, cublas, code):
    path = tmp_path / "cuda.json"
    records = [record(LARGE, 1, ours=0.5, cublas=cublas), record(LARGE, 128, ours=0.5, cublas=5.0)]
    path.write_text(json.dumps({"records": records}))
    assert cuda_report.main([str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    assert sum(line.startswith("|") for line in lines) == 2 + 4
    assert cuda_report.main([str(path), "--require", "--json"]) == code
    printed = capsys.readouterr()
    assert [each["verdict"] for each in json.loads(printed.out)["verdicts"]] == [PASS, FAIL if code else PASS, PASS]
    assert ("1 of 3 aims not reached" in printed.err) == bool(code)
