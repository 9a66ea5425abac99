"""Even levels, groups of 16, bfloat16 scales: what version 2 of the operator brought."""

import struct
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualbinary import OP, InputError, check_tensors, dual_binary_matmul, unpack_planes
from dualbinary.contract.layout import CODES, unpack_zeros
from dualbinary.contract.levels import GROUP_ZEROS, Levels
from dualbinary.contract.scale_codes import BFLOAT16, scale_values
from dualbinary.contract.weight import EACH_GROUP, PER_CHANNEL, PlaneFormat, PlaneWeight
from tests.support.even_weights import even_weights

EPS = np.finfo(np.float64).eps
LAYOUTS = [layout.name for layout in OP.layouts if layout.name != CODES]
BLOCKS = [layout.name for layout in OP.layouts if layout.blocks]


@given(even_weights(), st.sampled_from(LAYOUTS))
def test_a_weight_is_step_times_q_less_zero_in_every_layout(case, layout):
    # The definition sums P powers of two times the step, and the offset: P + 1 roundings of the largest of them.
    largest = np.abs(scale_values(case.weight.scales)).max() * 2.0**9
    stored = case.weight.to_layout(layout)
    np.testing.assert_allclose(stored.dequantize(), case.values, rtol=0, atol=10 * EPS * largest)


@given(even_weights(), st.sampled_from(BLOCKS))
def test_a_weight_comes_back_from_blocks_to_the_byte(case, layout):
    wanted = case.weight.with_own_scales()
    stored = case.weight.to_layout(layout)
    assert [list(stored.planes.shape), list(stored.scales.shape)] == list(stored.format.shapes(wanted.N, wanted.K))
    again = PlaneWeight.of(
        stored.planes, stored.scales, wanted.K, wanted.format.group_size, layout, wanted.format.node_levels
    )
    back = again.to_layout("plain")
    assert back.format == wanted.format
    assert back.planes.tobytes() == wanted.planes.tobytes()
    assert back.scales.tobytes() == wanted.scales.tobytes()


@given(even_weights())
def test_codes_are_what_matmulnbits_reads(case):
    """Byte by byte: number i of a byte is P bits, the lowest first; zero points follow as numbers."""
    weight = case.weight
    if not weight.format.in_codes:
        with pytest.raises(InputError, match="layout: expected another one"):
            replace(weight.format, layout=CODES)
        return
    stored, form = weight.to_layout(CODES), weight.format
    P, G, groups = form.planes, form.group_size, form.groups(weight.K)
    assert [list(stored.planes.shape), list(stored.scales.shape)] == list(stored.format.shapes(weight.N, weight.K))
    data, row = stored.planes.reshape(weight.N, -1), groups * G
    bits = unpack_planes(weight.planes, weight.K)
    for n, k in np.ndindex(weight.N, weight.K):
        q = sum(int(bits[p, n, k]) << p for p in range(P))
        assert data[n, k * P // 8] >> (k * P % 8) & (1 << P) - 1 == q
    if form.zero == EACH_GROUP:
        zeros = unpack_zeros(weight.planes, weight.K, G)
        for n, g in np.ndindex(weight.N, groups):
            at = (row + g) * P
            assert data[n, at // 8] >> (at % 8) & (1 << P) - 1 == zeros[n, g]
    again = PlaneWeight.of(stored.planes, stored.scales, weight.K, G, CODES, form.node_levels)
    back = again.to_layout("plain")
    assert again.format == stored.format
    assert (back.planes.tobytes(), back.scales.tobytes()) == (weight.planes.tobytes(), weight.scales.tobytes())


@given(even_weights(max_outputs=5))
def test_the_product_is_the_dense_one(case):
    weight = case.weight
    x = case.rng.standard_normal((2, weight.K)).astype(np.float32)
    sizes = {"K": weight.K, "N": weight.N, "group_size": weight.format.group_size}
    y = dual_binary_matmul(x, weight.planes, weight.scales, **sizes, levels=weight.format.node_levels)
    largest = np.abs(x).astype(np.float64).sum(-1, keepdims=True) * np.abs(scale_values(weight.scales)).max() * 2.0**9
    assert (np.abs(y - x.astype(np.float64) @ case.values.T) <= 20 * weight.K * EPS * largest).all()


@given(even_weights())
def test_shapes_and_bits_are_those_of_the_stored_tensors(case):
    weight = case.weight
    assert [list(weight.planes.shape), list(weight.scales.shape)] == list(weight.format.shapes(weight.N, weight.K))
    shared = 8 * weight.scales.nbytes if weight.format.per_tensor else 0
    assert weight.N * weight.format.row_bits(weight.K) + shared == 8 * weight.nbytes


@given(even_weights(), st.data())
def test_rows_joined_again_are_the_weight(case, data):
    weight = case.weight
    cut = data.draw(st.integers(0, weight.N))
    joined = PlaneWeight.concatenate([weight.rows(slice(0, cut)), weight.rows(slice(cut, weight.N))])
    np.testing.assert_array_equal(joined.dequantize(), weight.dequantize())
    assert joined.format == replace(weight.format, per_tensor=False)


def test_zero_points_are_one_more_code_behind_the_planes():
    """By hand: N = 1, two groups of 16; q of input 0 is 1, of input 17 is 2; zeros are 3 and 2."""
    q = np.zeros((1, 32), np.int64)
    q[0, 0], q[0, 17] = 1, 2
    form = PlaneFormat(2, 16, levels="even", zero=EACH_GROUP)
    weight = PlaneWeight.pack_even(q, np.ones((1, 1, 2), np.float16), form, np.array([[3, 2]]))
    assert weight.planes.tolist() == [[[1, 0, 0, 0, 0b01]], [[0, 0, 0b10, 0, 0b11]]]
    assert weight.dequantize()[0, [0, 1, 16, 17]].tolist() == [-2, -3, -2, 0]


def test_a_pair_of_groups_of_16_is_stored_as_one_group():
    """By hand, layout avx512: the scales of both groups, then their zero points, then the line."""
    q = np.zeros((1, 48), np.int64)
    form = PlaneFormat(1, 16, levels="even", zero=EACH_GROUP)
    scales = np.array([[[1, 2, 4]]], np.float16)
    block = PlaneWeight.pack_even(q, scales, form, np.array([[1, 0, 1]])).to_layout("avx512").planes[0].tobytes()
    unit = 2 * 32 * 2 + 2 * 32 + 128  # scales, zero points, a line
    assert len(block) == 2 * unit
    assert [struct.unpack_from("<e", block, at)[0] for at in (0, 64, unit, unit + 64)] == [1, 2, 4, 0]
    assert [block[at] for at in (128, 160, unit + 128, unit + 160)] == [1, 0, 1, 0]


def test_bfloat16_scales_are_the_high_half_of_float32():
    values = np.array([[[1.5, -3e38, 0, 1e-38]]], np.float32)
    bits = (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    wanted = (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    assert bits.dtype == BFLOAT16
    np.testing.assert_array_equal(scale_values(bits), wanted)


@pytest.mark.parametrize(
    ("form", "bits"),
    [
        ({"planes": 4, "group_size": 128, "zero": 8}, 4.125),
        ({"planes": 4, "group_size": 32, "zero": 8}, 4.5),
        ({"planes": 2, "group_size": 128, "zero": 1}, 2.125),
        ({"planes": 1, "group_size": 128, "zero": 0.5}, 1.125),
        ({"planes": 8, "group_size": 32, "zero": 128}, 8.5),
        ({"planes": 2, "group_size": 64, "zero": EACH_GROUP}, 2 + 18 / 64),
        ({"planes": 2, "group_size": PER_CHANNEL, "zero": 1, "per_tensor": True}, 2),
    ],
)
def test_true_bits_of_forms_that_models_come_in(form, bits):
    assert PlaneFormat(levels="even", **form).row_bits(4096) / 4096 == bits


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"zero": 3.5}, r"zero: expected a multiple of 0.5 from 0 to 3, or 'group', got 3.5"),
        ({"zero": 0.25}, "zero: .* got 0.25"),
        ({"zero": -1}, "zero: .* got -1"),
        ({"zero": True}, "zero: .* got True"),
        ({"zero": "row"}, "zero: .* got 'row'"),
        ({"zero": 1, "offset": True}, r"zero: expected 0 beside an offset, got 1"),
        ({"zero": 1, "levels": "free"}, r"zero: expected 0 with free levels, got 1"),
        ({"group_size": 16, "levels": "free"}, "group_size: .*; 16 with even levels, got 16"),
        ({"per_tensor": True, "levels": "free"}, "per_tensor: expected even levels"),
        ({"per_tensor": True, "zero": EACH_GROUP}, "per_tensor: .* one zero for all"),
        ({"per_tensor": True, "layout": "avx2"}, "per_tensor: .* no layout of blocks"),
    ],
)
def test_a_format_outside_the_contract_is_refused_by_its_field(change, message):
    with pytest.raises(InputError, match=message):
        replace(PlaneFormat(2, 64, levels="even"), **change)


PLANES, SCALES = np.zeros((2, 3, 8), np.uint8), np.ones((1, 3, 1), np.float16)


@pytest.mark.parametrize(
    ("planes", "scales", "group_size", "levels", "message"),
    [
        (PLANES, SCALES, 64, Levels(True, 7), "twice_zero must be 0 to 6 for 2 planes, or -1"),
        (PLANES, SCALES, 64, Levels(True, -2), "twice_zero must be 0 to 6"),
        (PLANES, np.ones((2, 3, 1), np.float16), 64, Levels(False, 2), "twice_zero must be 0 with free levels"),
        (PLANES, np.ones((2, 3, 1), np.float16), 64, Levels(True, 2), "twice_zero must be 0 beside an offset"),
        (PLANES, np.ones((3, 3, 1), np.float16), 64, Levels(True, 0), r"scales: expected shape \[1 or 2, 3, 1\]"),
        (PLANES, SCALES, 64, Levels(True, GROUP_ZEROS), r"planes: expected shape \[2, 3, 9\]"),
        (PLANES, np.ones((2, 1, 1), np.float16), 64, Levels(), r"scales: expected shape \[2 or 3, 3, 1\]"),
        (PLANES, np.ones((2, 3, 4), np.float16), 16, Levels(), "positive multiple of 32, or 16 with even levels"),
        (PLANES, np.ones((1, 1, 2), np.float16), 32, Levels(True), r"scales: expected shape \[1 or 2, 3, 2\]"),
    ],
)
def test_tensors_outside_the_contract_are_refused_by_name(planes, scales, group_size, levels, message):
    with pytest.raises(InputError, match=f"layer.*{message}"):
        check_tensors(planes, scales, 3, 64, group_size, "layer", levels)


@pytest.mark.parametrize("planes", [2, 4, 8])
def test_codes_of_a_large_table_take_little_memory(planes):
    N, K = 2048, 512
    weight = PlaneWeight.pack_even(
        (np.arange(N * K) % (1 << planes)).astype(np.uint8).reshape(N, K),
        np.ones((1, N, K // 32), np.float16),
        PlaneFormat(planes, 32, False, levels="even", zero=1.0),
    )
    tracemalloc.start()
    try:
        stored = weight.to_layout(CODES)
        assert tracemalloc.get_traced_memory()[1] < 4 * N * K
        stored.to_layout("plain")
        assert tracemalloc.get_traced_memory()[1] < 5 * N * K
    finally:
        tracemalloc.stop()


def test_codes_and_zero_points_beyond_the_planes_are_refused():
    form, scales = PlaneFormat(2, 32, levels="even", zero=EACH_GROUP), np.ones((1, 1, 1), np.float16)
    with pytest.raises(InputError, match="q: expected 0 to 3, got 0 to 4"):
        PlaneWeight.pack_even(np.array([[0, 4]]), scales, form, np.zeros((1, 1), int))
    with pytest.raises(InputError, match="zero points: expected 0 to 3 for 2 planes"):
        PlaneWeight.pack_even(np.array([[0, 3]]), scales, form, np.full((1, 1), 4))
