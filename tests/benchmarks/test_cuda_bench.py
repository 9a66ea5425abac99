"""The CUDA benchmark and the check of products, from the command line, on the emulated library and stand-ins."""

import ctypes
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.cuda import bench as cuda_bench
from benchmarks.cuda import products as cuda_products
from benchmarks.cuda.contenders import PEERS, Point, Products, our_names, stored_bytes, weight_count
from benchmarks.cuda.device import Emulated
from dualbinary import DualBinaryError
from tests.support import cuda_stand_ins as stand_ins
from tests.support.cuda_libraries import emulated_library

TINY = ["--shapes", "48x256", "--group-sizes", "64", "--rounds", "2", "--seconds", "0"]
PREFILL = ["prefill_wgmma", "prefill_mma"]
KERNELS = ["decode_b1", "decode_s8", *PREFILL]


@pytest.fixture(scope="module")
def library():
    return emulated_library()


def run(capsys, library, *arguments):
    assert cuda_bench.main(["--library", str(library), "--json", *TINY, *map(str, arguments)]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_command_measures_every_kernel_that_takes_the_rows_and_continues(library, tmp_path, capsys):
    path = tmp_path / "cuda.json"
    first = run(capsys, library, "--emulated", "--out", path, "--kernels", "all", "--rows", 1)
    names = our_names([0, 4], [None, *KERNELS])
    assert [row["contender"] for row in first["results"]] == names
    assert {row["kernel"] for row in first["results"] if "@" not in row["contender"]} == {"decode_b1"}
    assert set(first["records"][0]["missing"]) == set(PEERS)

    both = run(capsys, library, "--emulated", "--out", path, "--kernels", "all", "--rows", 1, 17)
    assert both["records"][:1] == first["records"]
    assert [record["M"] for record in both["records"]] == [1, 17]
    assert [row["contender"] for row in both["results"] if row["M"] == 17] == our_names([0, 4], [None, *PREFILL])
    for record in both["records"]:
        for contender in record["contenders"].values():
            assert set(contender["seconds"]) == {"launch"}
            assert len(contender["seconds"]["launch"]) == 2


def test_a_file_of_another_build_of_the_kernels_is_refused(library, tmp_path, capsys):
    path = tmp_path / "cuda.json"
    run(capsys, library, "--emulated", "--out", path, "--rows", 1)
    content = json.loads(path.read_text())
    content["settings"]["cuda_library"] = "another"
    path.write_text(json.dumps(content))
    assert cuda_bench.main(["--library", str(library), "--emulated", "--out", str(path), *TINY, "--rows", "1"]) == 2
    assert "measured with cuda_library another" in capsys.readouterr().err


def test_aims_that_were_not_measured_fail_where_they_are_required(library, capsys):
    arguments = ["--library", str(library), "--emulated", "--require", *TINY, "--rows", "1"]
    assert cuda_bench.main(arguments) == 1
    printed = capsys.readouterr()
    assert printed.out.count("NOT MEASURED") == 3
    assert "not measured: cublas-fp16: needs a GPU" in printed.out
    assert "3 of 3 aims not reached" in printed.err


def test_without_a_gpu_the_refusal_is_one_line(library, capsys):
    assert cuda_bench.main(["--library", str(library), *TINY]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: torch ")
    assert "sees no CUDA device" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--shapes", "4096"], "expected NxK such as 4096x11008"),
        (["--kernels", "decode_s9"], "--kernels: decode_s9 is unknown; there are decode_b1, decode_s8"),
    ],
)
def test_wrong_options_are_named(library, capsys, arguments, words):
    assert cuda_bench.main(["--library", str(library), "--emulated", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_library_that_is_not_there_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv(cuda_bench.VARIABLE, raising=False)
    assert cuda_bench.main([]) == 2
    assert "make cuda builds it" in capsys.readouterr().err
    assert cuda_bench.main(["--library", str(tmp_path / "none.so")]) == 2
    assert "none.so: no such library" in capsys.readouterr().err


def test_on_a_gpu_graphs_and_launches_are_timed_and_peers_that_fail_are_reasons(library, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", stand_ins.TorchOfGpu())
    found = run(capsys, library, "--rows", 1, 17)
    assert found["settings"]["device"] == "emulated"
    for record in found["records"]:
        assert set(record["contenders"]) == {"dualbinary-0", "dualbinary-4", "cublas-fp16"}
        assert set(record["missing"]) == {"MatMulNBits-4", "MatMulNBits-2", "torch-int4"}
        assert "onnxruntime-gpu has" in record["missing"]["MatMulNBits-4"]
        point = Point(record["N"], record["K"], record["M"], record["G"])
        for name, contender in record["contenders"].items():
            # Each event is a millisecond after the one before, whatever the work.
            expected = 1e-3 / weight_count(name, point, found["settings"]["l2_bytes"])
            assert set(contender["seconds"]) == {"replay", "launch"}
            for times in contender["seconds"].values():
                assert times == pytest.approx([expected, expected])
    assert {row["contender"]: set(row["ratios"]) for row in found["results"]} == {
        "dualbinary-0": {"cublas-fp16"},
        "dualbinary-4": {"cublas-fp16"},
        "cublas-fp16": set(),
    }


def test_weights_together_exceed_the_cache_and_are_counted_as_stored(library):
    point = Point(N=4096, K=14336, M=1, G=64)
    l2 = 50 << 20
    for name in ("dualbinary-0", *PEERS):
        count = weight_count(name, point, l2)
        assert count >= 2
        assert count * stored_bytes(name, point) >= 4 * l2
        assert 2 <= weight_count(name, Point(4096, 14336, 2048, 64), l2) <= count
    assert stored_bytes("dualbinary-0", point) == 4096 * (2 * 14336 // 8 + 2 * 2 * 224)
    assert stored_bytes("cublas-fp16", point) == 2 * 4096 * 14336
    small = Point(N=48, K=256, M=1, G=64)
    products = Products(Emulated(library), small, level=0, count=1)
    # The packed form of shapes that tiles divide has only the scales of a last tile more: 2 bytes, 16 rows, 2 planes.
    assert 0 <= products.packed_bytes - stored_bytes("dualbinary-0", small) <= 4 * 2 * 16 * 2
    products.close()


def test_kernels_that_disagree_have_no_speed(library):
    products = Products(Emulated(library), Point(N=48, K=256, M=2, G=64), level=0, count=2)
    right = products.work("prefill_mma")
    products.check({"one": right, "two": products.work("decode_s8")})
    nbytes = 2 * 2 * 48

    def wrong() -> None:
        ctypes.memset(products.y.address, 0x3C, nbytes)  # float16 values a little above 1

    with pytest.raises(DualBinaryError, match=r"48x256 M=2 G=64: two differs by .* of the norm from one"):
        products.check({"one": right, "two": wrong})
    products.close()


@pytest.mark.parametrize("rows", [["4"], pytest.param(["16", "130"], marks=pytest.mark.slow)], ids=str)
def test_every_kernel_is_held_against_the_reference(library, capsys, rows):
    assert cuda_products.main(["--library", str(library), "--emulated", "--json", "--rows", *rows]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["products"]) == set(KERNELS if rows == ["4"] else KERNELS[1:])
    assert 0 < found["largest"] < 1


def test_a_wrong_product_is_named(library, capsys, monkeypatch):
    reference = cuda_products.dual_binary_matmul
    monkeypatch.setattr(cuda_products, "dual_binary_matmul", lambda *a, **k: np.roll(reference(*a, **k), 1, axis=1))
    assert cuda_products.main(["--library", str(library), "--emulated"]) == 1
    assert "error: Case(kernel='decode_b1', rows=1" in capsys.readouterr().err


def test_products_run_in_memory_of_the_driver(library, tmp_path):
    stand_ins.make_driver(tmp_path)
    command = [sys.executable, "-m", "benchmarks.cuda.products", "--library", str(library), "--rows", "2", "7"]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}
    done = subprocess.run(command, cwd=stand_ins.ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "products are right" in done.stdout


def test_without_a_driver_the_refusal_is_one_line(library, capsys):
    assert cuda_products.main(["--library", str(library)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: no NVIDIA driver")
    assert error.count("\n") == 1
