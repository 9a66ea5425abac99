import json
import struct
from fractions import Fraction

import numpy as np
import pytest

from dualbinary import dequantize, dual_binary_matmul, golden, pack_planes, unpack_planes

CASES = golden.load()


@pytest.fixture(params=CASES, ids=[case["name"] for case in CASES])
def case(request):
    return request.param


def bits_of(case):
    rows = [[int(bit) for bit in row] for row in case["bits"]]
    return np.array(rows).reshape(case["P"], case["N"], case["K"])


def tensors_of(case):
    groups = -(-case["K"] // case["group_size"])
    planes = np.frombuffer(bytes.fromhex(case["planes"]), np.uint8)
    scales = np.frombuffer(bytes.fromhex(case["scales"]), np.dtype(case["scale_type"]).newbyteorder("<"))
    return (
        planes.reshape(case["P"], case["N"], groups * case["group_size"] // 8),
        scales.astype(case["scale_type"]).reshape(case["C"], case["N"], -1),
    )


def scale_of(case, scales, c, n, group):
    """One scale, exactly."""
    row = scales[c, n]
    if case["scale_type"] != "uint8":
        return Fraction(float(row[group]))
    (factor,) = struct.unpack("<e", row[:2].tobytes())
    return Fraction(factor) * (int(row[2 + group]) - 128) / 128


def test_golden_file_is_what_the_generator_writes():
    assert golden.text() == json_file().read_text(encoding="utf-8")


def json_file():
    from importlib.resources import files

    return files(golden.__name__).joinpath(golden.FILE_NAME)


def test_golden_bits_are_packed_to_the_stored_bytes(case):
    planes, _ = tensors_of(case)
    np.testing.assert_array_equal(pack_planes(bits_of(case), case["group_size"]), planes)
    np.testing.assert_array_equal(unpack_planes(planes, case["K"]), bits_of(case))


def test_golden_bytes_hold_bit_k_where_the_layout_says(case):
    data = bytes.fromhex(case["planes"])
    row_bytes = -(-case["K"] // case["group_size"]) * case["group_size"] // 8
    for row, bits in enumerate(case["bits"]):
        for k, bit in enumerate(bits):
            assert data[row * row_bytes + k // 8] >> (k % 8) & 1 == int(bit)


def test_golden_y_is_exactly_the_formula(case):
    M, N, K, P = case["M"], case["N"], case["K"], case["P"]
    bits, (_, scales) = bits_of(case), tensors_of(case)
    x = [[Fraction(case["x"][m * K + k]) for k in range(K)] for m in range(M)]
    for m in range(M):
        for n in range(N):
            total = Fraction(0)
            for k in range(K):
                group = k // case["group_size"]
                for c in range(case["C"]):
                    if c == P or bits[c, n, k]:
                        total += scale_of(case, scales, c, n, group) * x[m][k]
            assert Fraction(case["y"][m * N + n]) == total


def test_golden_y_is_what_reference_and_dense_product_give(case):
    planes, scales = tensors_of(case)
    x = np.array(case["x"], np.float32).reshape(case["M"], case["K"])
    y = np.array(case["y"]).reshape(case["M"], case["N"])
    size = {"K": case["K"], "N": case["N"], "group_size": case["group_size"]}
    np.testing.assert_array_equal(dual_binary_matmul(x, planes, scales, **size), y)
    np.testing.assert_array_equal(x @ dequantize(planes, scales, case["K"], case["group_size"]).T, y)


def test_golden_y_is_exact_in_float32(case):
    y = np.array(case["y"])
    np.testing.assert_array_equal(y.astype(np.float32), y)


def test_golden_cases_cover_offset_ragged_and_every_limit_of_planes():
    assert {case["P"] for case in CASES} >= {1, 2, 8}
    assert any(case["C"] > case["P"] for case in CASES)
    assert any(case["K"] % case["group_size"] for case in CASES)
    assert {case["scale_type"] for case in CASES} == {"float16", "float32", "uint8"}
    assert json.loads(golden.text())["layout"] == 1
