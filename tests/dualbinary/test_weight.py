"""PlaneFormat and PlaneWeight: one value for a quantized weight."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualbinary import OP, InputError, dequantize
from dualbinary.contract.weight import PER_CHANNEL, PlaneFormat, PlaneWeight
from tests.support.strategies import cases

LAYOUTS = [layout.name for layout in OP.layouts if layout.since == 1]


def weight_of(case):
    return PlaneWeight.of(case.planes, case.scales, case.K, case.group_size)


@given(cases(), st.sampled_from(LAYOUTS))
def test_shapes_are_those_of_the_stored_tensors(case, layout):
    stored = weight_of(case).to_layout(layout)
    shapes = stored.format.shapes(case.N, case.K)
    assert (list(stored.planes.shape), list(stored.scales.shape)) == shapes
    assert stored.format.layout == layout


@given(cases(), st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS))
def test_a_way_through_any_layouts_keeps_format_and_bytes(case, first, second):
    weight = weight_of(case)
    stored = weight.to_layout(first)
    assert PlaneWeight.of(stored.planes, stored.scales, case.K, case.group_size, first).format == stored.format
    back = stored.to_layout(second).to_layout("plain")
    assert back.format == weight.format
    assert back.planes.tobytes() == weight.planes.tobytes()
    assert back.scales.tobytes() == weight.scales.tobytes()


@given(cases(), st.sampled_from(LAYOUTS))
def test_dequantize_in_any_layout_is_the_definition(case, layout):
    wanted = dequantize(case.planes, case.scales, case.K, case.group_size)
    np.testing.assert_array_equal(weight_of(case).to_layout(layout).dequantize(), wanted)


@given(cases(), st.data())
def test_rows_joined_again_are_the_weight(case, data):
    weight = weight_of(case)
    cut = data.draw(st.integers(0, case.N))
    joined = PlaneWeight.concatenate([weight.rows(slice(0, cut)), weight.rows(slice(cut, case.N))])
    np.testing.assert_array_equal(joined.planes, weight.planes)
    np.testing.assert_array_equal(joined.scales, weight.scales)
    assert (joined.N, joined.K, joined.format) == (case.N, case.K, weight.format)


def test_joined_weights_have_the_wider_type_of_scales():
    planes, scales = np.zeros((2, 3, 16), np.uint8), np.ones((2, 3, 2), np.float16)
    parts = [PlaneWeight.of(planes, scales.astype(dtype), 128, 64) for dtype in (np.float16, np.float32)]
    joined = PlaneWeight.concatenate(parts)
    assert joined.format.scale_dtype == joined.scales.dtype == np.float32


@given(cases())
def test_pack_gives_the_weight_of_its_bits(case):
    packed = PlaneWeight.pack(case.bits, case.scales, case.group_size)
    np.testing.assert_array_equal(packed.planes, case.planes)
    assert packed.format == weight_of(case).format


@given(cases())
def test_row_bits_count_all_stored_bits(case):
    weight = weight_of(case)
    assert case.N * weight.format.row_bits(case.K) == 8 * weight.nbytes


@pytest.mark.parametrize(("K", "size"), [(1, 32), (32, 32), (33, 64), (100, 128)])
def test_one_group_per_output_is_as_long_as_the_padded_row(K, size):
    form = PlaneFormat(2, PER_CHANNEL)
    assert form.for_inputs(K) == PlaneFormat(2, size)
    assert form.groups(K) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"planes": 0}, "planes: expected an integer from 1 to 8, got 0"),
        ({"planes": 9}, "planes: .* got 9"),
        ({"planes": True}, "planes: .* got True"),
        ({"group_size": 48}, "group_size: expected a positive multiple of 32, or -1"),
        ({"group_size": 0}, "group_size"),
        ({"levels": "odd"}, "levels: expected one of free, symmetric, even, got 'odd'"),
        ({"levels": "symmetric"}, "offset: expected an offset with symmetric levels"),
        (
            {"scale_dtype": np.float64},
            r"scale_dtype: expected float16, float32, bfloat16 or uint8, got dtype\('float64'\)",
        ),
        ({"layout": "sse"}, "layout: expected one of plain"),
    ],
)
def test_a_format_outside_the_contract_is_refused_by_its_field(change, message):
    with pytest.raises(InputError, match=message):
        replace(PlaneFormat(2, 64), **change)


def test_tensors_that_do_not_fit_are_refused():
    planes, scales = np.zeros((2, 3, 16), np.uint8), np.zeros((2, 3, 2), np.float16)
    assert PlaneWeight.of(planes, scales, 128, 64).N == 3
    with pytest.raises(InputError, match="planes: expected shape"):
        PlaneWeight.of(planes, scales, 256, 64)
    with pytest.raises(InputError, match="beside blocks"):
        PlaneWeight.of(planes, scales, 128, 64, "avx2")
