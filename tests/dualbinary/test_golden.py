import hashlib
import json
import struct
from fractions import Fraction
from importlib.resources import files

import numpy as np
import pytest

from dualbinary import OP, dequantize, dual_binary_matmul, pack_planes, unpack_planes
from dualbinary.contract import golden

CASES = golden.load(1)
DIGESTS_OF_VERSION_1 = ["acfea4332aa528c0", "8490f9ac1b86820e", "8e42dbcecb7501f5", "c40ff58d4adce385"]
BLOCK_CASES = [(layout.name, case) for layout in OP.layouts if layout.blocks for case in golden.load(layout.number)]


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


@pytest.mark.parametrize(
    ("layout", "version"), [(layout.number, version) for layout in OP.layouts for version in range(layout.since, 3)]
)
def test_golden_file_is_what_the_generator_writes(layout, version):
    text = files(golden.__name__).joinpath(golden.file_name(layout, version)).read_text(encoding="utf-8")
    assert golden.text(layout, version) == text
    assert json.loads(text)["layout"] == layout


def test_golden_files_of_version_1_never_change():
    """A file that changed its meaning would be read wrong by whoever has the old one."""
    texts = [golden.text(layout.number).encode() for layout in OP.layouts if layout.since == 1]
    digests = [hashlib.sha256(text).hexdigest()[:16] for text in texts]
    assert digests == DIGESTS_OF_VERSION_1


@pytest.mark.parametrize("case", golden.load(1, 2), ids=lambda case: case["name"])
def test_golden_y_of_even_levels_is_exactly_the_formula(case):
    """From bits, step and zero, without the code that dequantizes; zero points come from behind the planes."""
    M, N, K, P, G = (case[name] for name in ("M", "N", "K", "P", "group_size"))
    groups, twice_zero = -(-K // G), case.get("twice_zero")
    row = groups * G // 8 + (-(-groups // 8) if twice_zero == -1 else 0)
    data, bits = bytes.fromhex(case["planes"]), bits_of(case)
    size = {"uint8": 1, "float16": 2, "bfloat16": 2}.get(case["scale_type"], 4)
    stored = np.frombuffer(bytes.fromhex(case["scales"]), np.uint8).reshape(case["C"], -1, size)
    for m, n in np.ndindex(M, N):
        total = Fraction(0)
        for k in range(K):
            g = k // G
            a = [_scale_at(case, stored, c, n, g, groups) for c in range(case["C"])]
            q = sum(int(bits[p, n, k]) << p for p in range(P))
            w = a[0] * q if twice_zero is not None else sum(a[p] * int(bits[p, n, k]) for p in range(P))
            if twice_zero == -1:
                at = [(p * N + n) * row + groups * G // 8 + g // 8 for p in range(P)]
                w -= a[0] * sum((data[at[p]] >> g % 8 & 1) << p for p in range(P))
            elif twice_zero:
                w -= a[0] * Fraction(twice_zero, 2)
            w += a[-1] if case["C"] > (1 if twice_zero is not None else P) else 0
            total += w * Fraction(case["x"][m * K + k])
        assert Fraction(case["y"][m * N + n]) == total


def _scale_at(case, stored, c, n, g, groups):
    columns = groups + 2 * (case["scale_type"] == "uint8")
    rows = stored.shape[1] // columns
    row = stored[c, (n % rows) * columns :][:columns]
    if case["scale_type"] == "uint8":
        (factor,) = struct.unpack("<e", row[:2].tobytes())
        return Fraction(factor) * (int(row[2 + g, 0]) - 128) / 128
    if case["scale_type"] == "bfloat16":
        return Fraction(struct.unpack("<f", b"\0\0" + row[g].tobytes())[0])
    return Fraction(struct.unpack("<e" if case["scale_type"] == "float16" else "<f", row[g].tobytes())[0])


@pytest.mark.parametrize(("layout", "case"), BLOCK_CASES, ids=[f"{name}-{case['name']}" for name, case in BLOCK_CASES])
def test_golden_blocks_hold_every_bit_and_scale_where_the_page_says(layout, case):
    """Byte by byte from docs/layouts.md, without the code that packs."""
    data, bits = bytes.fromhex(case["planes"]), bits_of(case)
    K, N, P, C, G = (case[name] for name in ("K", "N", "P", "C", "group_size"))
    coded, size = case["scale_type"] == "uint8", {"uint8": 1, "float16": 2, "float32": 4}[case["scale_type"]]
    groups, segment = -(-K // G), max(s for s in (32, 64, 96, 128) if G % s == 0)
    factor_bytes = -(-C * 64 // 64) * 64 if coded else 0
    scale_bytes = -(-C * 32 * size // 64) * 64
    group_bytes = scale_bytes + P * 4 * G
    block_bytes = factor_bytes + groups * group_bytes
    assert len(data) == -(-N // 32) * block_bytes
    assert case["scales"] == ""
    for n in range(N):
        block, r = n // 32 * block_bytes, n % 32
        for p in range(P):
            for k in range(K):
                s, line, j = k % G // segment, k % segment // 32, k % 32 // 4
                at = block + factor_bytes + k // G * group_bytes + scale_bytes
                at += 128 * ((s * P + p) * (segment // 32) + line)
                byte, high = nibble_of(layout, r, j)
                assert data[at + byte] >> (4 * high + k % 4) & 1 == bits[p, n, k]
    first = next(c for c in [*golden.load(1), case] if c["name"] == case["name"])
    if first is case:
        return  # a shape that layout 1 has no vector of: its scales are held by the products of the kernels
    _, plain = tensors_of(first)
    for c, n, g in np.ndindex(C, N, groups):
        at = n // 32 * block_bytes + factor_bytes + g * group_bytes + (c * 32 + n % 32) * size
        stored = data[at : at + size]
        if not coded:
            assert stored == plain[c, n, g : g + 1].tobytes()
            continue
        assert stored[0] == (int(plain[c, n, 2 + g]) - 128) % 256
        at = n // 32 * block_bytes + (c * 32 + n % 32) * 2
        assert data[at : at + 2] == plain[c, n, :2].tobytes()


def nibble_of(layout, r, j):
    """Byte of a line, and whether its high half: where inputs 4j .. 4j+3 of output r are."""
    if layout == "avx512":
        return 4 * r + j % 4, j // 4
    if layout == "avx2":
        return 32 * (j // 2) + 2 * (r % 16) + r // 16, j % 2
    return 64 * (j // 4) + 2 * r + j % 2, j % 4 // 2


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
    assert {case["N"] > 32 for _, case in BLOCK_CASES} == {False, True}
    assert {case["group_size"] for _, case in BLOCK_CASES} >= {32, 64, 96, 160, 192}
