"""The kernel benchmark from its command line to its table, on shapes that take no time; and its models."""

import json
import os

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from benchmarks.kernels import bench as kernel_bench
from benchmarks.kernels import report as kernel_report
from benchmarks.kernels.contenders import Point, Sessions, WeightFormat, contender_names, even, model, open_session
from dualbinary.contract.reference import dual_binary_matmul

POINT = Point(N=40, K=96, M=3, threads=1)
FORMAT = WeightFormat(group_size=32, planes=2, offset=False, dtype="float32")
NAMES = contender_names([4, 0], [None], [2, 4])
ARGUMENTS = ["--quick", "--json", "--rounds=1", "--seconds=0", "--megabytes=1", "--shapes=40x96", "--group-size=32"]


def run(capsys, *arguments):
    assert kernel_bench.main([*ARGUMENTS, *map(str, arguments)]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_command_measures_continues_and_reports(tmp_path, capsys):
    path = tmp_path / "kernels.json"
    first = run(capsys, "--out", path, "--rows", 1)
    assert [(row["M"], row["threads"], row["contender"]) for row in first["results"]] == [
        (1, threads, name) for threads in (1, 2) for name in NAMES
    ]
    both = run(capsys, "--out", path, "--rows", 1, 128)
    assert both["records"][:2] == first["records"]
    assert [record["M"] for record in both["records"]] == [1, 1, 128, 128]
    assert len(both["results"]) == 4 * len(NAMES)

    plot = tmp_path / "plot.svg"
    assert kernel_report.main([str(path), "--plot", str(plot)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert len(lines) == 2 + len(both["results"])
    assert plot.stat().st_size < 1 << 20
    assert plot.read_text().rstrip().endswith("</svg>")


def test_figures_follow_from_the_times():
    record = {
        **vars(Point(N=1000, K=500, M=2, threads=1)),
        "other_cores": 0.0,
        # The second distance has the better median, though not the best time.
        "read": {"bytes": 4_000_000, "seconds": [[1e-3, 4e-3, 4e-3], [2e-3, 2e-3, 2e-3]]},
        "contenders": {
            "dualbinary-4": {"stored_bytes": 100_000, "seconds": [1e-4, 2e-4, 1e-4]},
            "MatMulNBits-2": {"stored_bytes": 100_000, "seconds": [3e-4, 3e-4, 2e-4]},
        },
    }
    ours, peer = kernel_report.results({"records": [record]})
    assert ours["us"] == pytest.approx(100)
    assert ours["Gweights/s"] == pytest.approx(5)
    assert ours["GOPS"] == pytest.approx(20)
    assert ours["GB/s"] == pytest.approx(1)
    assert ours["read_GB/s"] == pytest.approx(2)
    assert ours["of_read"] == pytest.approx(0.5)
    assert ours["ratios"]["MatMulNBits-2"]["median"] == pytest.approx(3)
    assert peer["ratios"] == {}


@pytest.mark.parametrize("name", [*NAMES, *contender_names([4], [None], [], [even(1), even(8)])])
def test_every_node_has_weights_and_inputs_of_its_own_and_stored_bytes_counts_them(name):
    graph = onnx.load_from_string(model(name, POINT, 3, FORMAT)).graph
    tensors = [tensor.raw_data for tensor in graph.initializer]
    assert len(set(tensors)) == len(tensors) == 6
    assert sum(map(len, tensors)) == 3 * FORMAT.stored_bytes(name, POINT)
    assert len({node.input[0] for node in graph.node}) == 3


@pytest.mark.parametrize("name", ["dualbinary-0", *contender_names([0], [None], [], [even(P) for P in (1, 2, 4, 8)])])
@pytest.mark.parametrize("offset", [False, True])
def test_our_contender_computes_the_operator(name, offset):
    weight_format = WeightFormat(
        group_size=64, planes=3, offset=offset, dtype="float32"
    )  # 96 inputs: a ragged last group
    plane_format = weight_format.plane_format(name)
    session = open_session(name, POINT, 2, weight_format)
    x = np.random.default_rng(1).standard_normal((2, POINT.K)).astype(np.float32)
    outputs = session.run(None, {value.name: x for value in session.get_inputs()})
    tensors = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in onnx.load_from_string(model(name, POINT, 2, weight_format)).graph.initializer
    }
    for index, y in enumerate(outputs):
        planes, scales = tensors[f"planes{index}"], tensors[f"scales{index}"]
        assert (len(planes), len(scales)) == (plane_format.planes, plane_format.scale_rows)
        levels = plane_format.node_levels
        expected = dual_binary_matmul(x, planes, scales, K=POINT.K, N=POINT.N, group_size=64, levels=levels)
        # Level 0 keeps 15 bits: an entry is off by 2^-21 of a nibble's sum at most, far below 1e-3 of these outputs.
        np.testing.assert_allclose(np.asarray(y), expected, atol=1e-3 * np.abs(expected).max())


def test_decode_is_out_of_cache_and_prefill_has_fewer_nodes():
    sessions = Sessions(FORMAT, NAMES, out_of_cache=1_000_000)
    for name in NAMES:
        decode, prefill = (sessions.nodes(name, Point(40, 96, M, 1)) for M in (1, 128))
        assert decode * FORMAT.stored_bytes(name, POINT) >= 1_000_000
        assert 2 <= prefill < decode


@pytest.mark.parametrize("before", [None, ""])
def test_a_forced_instruction_set_ends_with_the_session(capsys, monkeypatch, before):
    if before is None:
        monkeypatch.delenv("DUALBINARY_ISA", raising=False)
    else:
        monkeypatch.setenv("DUALBINARY_ISA", before)
    found = run(capsys, "--rows", 1, "--threads", 1, "--isas", "scalar", "--peers")
    assert {row["contender"] for row in found["results"]} == {"dualbinary-4@scalar", "dualbinary-0@scalar"}
    assert os.environ.get("DUALBINARY_ISA") == before


def test_a_wrong_shape_is_named(capsys):
    assert kernel_bench.main(["--shapes", "4096"]) == 2
    assert "expected NxK such as 4096x11008" in capsys.readouterr().err
