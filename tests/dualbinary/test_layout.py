import numpy as np
import pytest
from hypothesis import given

from dualbinary import (
    OP,
    InputError,
    check_tensors,
    dequantize,
    pack_planes,
    padded_k,
    to_layout,
    to_plain,
    unpack_planes,
)
from tests.support.strategies import cases

BLOCKS = [layout.name for layout in OP.layouts if layout.blocks]


@given(cases())
def test_pack_any_bits_puts_input_k_at_bit_k_mod_8_of_byte_k_div_8(case):
    P, N, K = case.bits.shape
    kp = padded_k(K, case.group_size)
    assert case.planes.shape == (P, N, kp // 8)
    for k in range(kp):
        stored = case.planes[:, :, k // 8] >> (k % 8) & 1
        expected = case.bits[:, :, k] if k < K else np.zeros((P, N))
        assert (stored == expected).all()


@given(cases())
def test_unpack_packed_bits_gives_them_back(case):
    assert (unpack_planes(case.planes, case.K) == case.bits).all()


@given(cases())
def test_dequantize_any_case_is_the_formula_weight_by_weight(case):
    weight = dequantize(case.planes, case.scales, case.K, case.group_size)
    P = len(case.bits)
    for n in range(case.N):
        for k in range(case.K):
            scales = case.values[:, n, k // case.group_size]
            expected = sum(scales[p] for p in range(P) if case.bits[p, n, k]) + (scales[P] if len(scales) > P else 0.0)
            # A sum of at most nine terms, in another order than NumPy's: 9 roundings of the largest partial sum.
            assert abs(weight[n, k] - expected) <= 9 * np.finfo(np.float64).eps * np.abs(scales).sum()


@pytest.mark.parametrize("layout", [layout.name for layout in OP.layouts if layout.since == 1])
@given(cases(max_outputs=70))
def test_any_weight_comes_back_from_any_layout_to_the_byte(layout, case):
    stored = to_layout(layout, case.planes, case.scales, case.K, case.group_size)
    planes, scales = to_plain(layout, *stored, case.K, case.group_size)
    for again, before in ((planes, case.planes), (scales, case.scales)):
        assert (again.shape, again.dtype) == (before.shape, before.dtype)
        assert again.tobytes() == before.tobytes()


def test_layouts_of_blocks_differ():
    bits = np.random.default_rng(0).integers(0, 2, (1, 32, 32))
    planes, scales = pack_planes(bits, 32), np.ones((1, 32, 1), np.float16)
    stored = [to_layout(name, planes, scales, 32, 32)[0] for name in BLOCKS]
    assert len({blocks.tobytes() for blocks in stored}) == len(BLOCKS)


BAD_BLOCKS = to_layout("avx2", np.zeros((2, 3, 16), np.uint8), np.zeros((3, 3, 2), np.float16), 128, 64)


@pytest.mark.parametrize(
    ("planes", "scales", "message"),
    [
        (BAD_BLOCKS[0][:, :-1], BAD_BLOCKS[1], r"planes: expected shape \[1, \d+\] or \[1, \d+\] for 3 rows"),
        (np.concatenate([BAD_BLOCKS[0]] * 2), BAD_BLOCKS[1], "planes: expected shape"),
        (BAD_BLOCKS[0][0], BAD_BLOCKS[1], "planes: expected shape"),
        (BAD_BLOCKS[0].astype(np.int8), BAD_BLOCKS[1], "planes: expected uint8"),
        (BAD_BLOCKS[0], np.zeros((3, 3, 2), np.float16), r"expected empty \[C, N, 0\]"),
        (BAD_BLOCKS[0], np.zeros((3, 40, 0), np.float16), "planes: expected shape"),
        (BAD_BLOCKS[0], np.zeros((11, 3, 0), np.float16), "planes: expected shape"),
        (BAD_BLOCKS[0], np.zeros((3, 3, 0), np.float64), r"expected empty \[C, N, 0\]"),
    ],
)
def test_blocks_of_another_shape_are_refused(planes, scales, message):
    with pytest.raises(InputError, match=message):
        to_plain("avx2", planes, scales, 128, 64)


@pytest.mark.parametrize(
    ("bits", "message"),
    [
        (np.zeros((2, 3)), r"shape \[P, N, K\]"),
        (np.full((1, 1, 4), 2), "only 0 and 1"),
        (np.full((1, 1, 4), -1), "only 0"),
    ],
)
def test_pack_wrong_bits_is_refused(bits, message):
    with pytest.raises(InputError, match=message):
        pack_planes(bits, 32)


PLANES, SCALES = np.zeros((2, 3, 16), np.uint8), np.zeros((2, 3, 2), np.float16)


def _with_factor(bits: int) -> np.ndarray:
    """Coded scales [2, 3, 2 + 2] whose last factor has the given bits."""
    scales = np.zeros((2, 3, 4), np.uint8)
    scales[1, 2, :2] = [bits & 255, bits >> 8]
    return scales


@pytest.mark.parametrize(
    ("planes", "scales", "group_size", "message"),
    [
        (PLANES, SCALES, 0, "group_size"),
        (PLANES, SCALES, -64, "group_size"),
        (PLANES, SCALES, 48, "group_size"),
        (PLANES, SCALES, 160, "group_size 160 is larger"),
        (PLANES.astype(np.int8), SCALES, 64, "expected uint8"),
        (PLANES[0], SCALES, 64, "expected uint8"),
        (PLANES[:, :, :8], SCALES, 64, r"planes: expected shape \[2, 3, 16\]"),
        (PLANES[:, :2], SCALES, 64, r"planes: expected shape \[2, 3, 16\]"),
        (PLANES[:0], SCALES[:0], 64, "0 planes"),
        (np.zeros((9, 3, 16), np.uint8), SCALES, 64, "9 planes"),
        (PLANES, SCALES.astype(np.float64), 64, "expected float16, float32, bfloat16 or uint8"),
        (PLANES, SCALES.astype(np.int8), 64, "expected float16, float32, bfloat16 or uint8"),
        (PLANES, SCALES.astype(np.uint8), 64, r"scales: expected shape \[2 or 3, 3, 4\] of uint8, got \[2, 3, 2\]"),
        (PLANES, np.zeros((2, 3, 5), np.uint8), 64, "scales: expected shape"),
        (PLANES, np.zeros((2, 12), np.uint8), 64, "scales: expected shape"),
        (PLANES, _with_factor(0x7C00), 64, "scales: the factor of row 1 of output 2 is inf, expected finite"),
        (PLANES, _with_factor(0xFC00), 64, "factor of row 1 of output 2 is -inf"),
        (PLANES, _with_factor(0x7C01), 64, "factor of row 1 of output 2 is nan"),
        (PLANES, SCALES[:1], 64, r"scales: expected shape \[2 or 3, 3, 2\]"),
        (PLANES, np.zeros((4, 3, 2), np.float16), 64, "scales: expected shape"),
        (PLANES, SCALES[:, :, :1], 64, "scales: expected shape"),
    ],
)
def test_check_tensors_outside_the_contract_is_refused_by_name(planes, scales, group_size, message):
    with pytest.raises(InputError, match=f"(?s)layer.*{message}"):
        check_tensors(planes, scales, 3, 128, group_size, "layer")


def test_check_tensors_inside_the_contract_passes():
    check_tensors(PLANES, SCALES, 3, 128, 64)
    check_tensors(PLANES, np.zeros((3, 3, 1), np.float32), 3, 97, 128)
    check_tensors(PLANES, np.zeros((3, 3, 3), np.uint8), 3, 97, 128)
    check_tensors(PLANES, _with_factor(0xFBFF), 3, 128, 64)  # the largest factor
