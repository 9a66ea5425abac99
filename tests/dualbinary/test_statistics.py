import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualbinary import dequantize, pack_planes
from dualbinary.contract.scale_codes import round_scales
from dualbinary.contract.weight import EACH_GROUP, PER_CHANNEL, PlaneFormat, PlaneWeight
from dualbinary.metrics.formats import count_formats, format_words
from dualbinary.metrics.operations import operations
from dualbinary.metrics.statistics import WeightStatistics, paper_flops, rounding_error, weight_statistics
from tests.support.random_weights import plane_formats, random_weight
from tests.support.strategies import cases


def of_codes(*counts):
    return WeightStatistics(sum(counts), 0, counts)


@given(cases())
def test_statistics_any_weight_count_its_bits_without_padding(case):
    statistics = weight_statistics(PlaneWeight.of(case.planes, case.scales, case.K, case.group_size))
    assert statistics.weights == case.N * case.K
    assert statistics.density == pytest.approx(case.bits.mean(axis=(1, 2)))
    codes = np.sum([plane << p for p, plane in enumerate(case.bits)], axis=0)
    assert statistics.code_counts == tuple((codes == code).sum() for code in range(1 << len(case.bits)))
    assert statistics.stored_bits == 8 * (case.planes.nbytes + case.scales.nbytes)


@given(st.lists(st.integers(0, 1000), min_size=4, max_size=4).filter(any))
def test_huffman_bits_lie_within_a_bit_of_the_entropy(counts):
    statistics = of_codes(*counts)
    assert 0 <= statistics.entropy <= 2
    if np.count_nonzero(counts) > 1:
        assert statistics.entropy - 1e-12 <= statistics.huffman_bits < statistics.entropy + 1


@pytest.mark.parametrize(
    ("counts", "entropy", "huffman"),
    [((1, 1, 1, 1), 2, 2), ((8, 4, 2, 2), 1.75, 1.75), ((5, 0, 0, 0), 0, 0), ((1, 1), 1, 1)],
)
def test_entropy_and_huffman_of_known_shares(counts, entropy, huffman):
    assert of_codes(*counts).entropy == pytest.approx(entropy)
    assert of_codes(*counts).huffman_bits == pytest.approx(huffman)


def test_gaussian_levels_of_the_paper_have_its_entropy_and_density():
    # Shares of the levels -s, 0, s, 2s of a Gaussian at the best s; codes are plane 1 + 2 * plane 2.
    shares = {(0, 1): 300, (0, 0): 400, (1, 1): 242, (1, 0): 58}
    counts = [0] * 4
    for (first, second), count in shares.items():
        counts[first + 2 * second] = count
    statistics = of_codes(*counts)
    assert statistics.density == pytest.approx((0.300, 0.542))
    assert statistics.entropy == pytest.approx(1.783, abs=1e-3)
    assert statistics.huffman_bits == pytest.approx(1.900, abs=1e-3)


def test_bits_per_weight_count_scales_and_padding():
    planes = pack_planes(np.zeros((2, 3, 64)), 64)
    statistics = weight_statistics(PlaneWeight.of(planes, np.zeros((2, 3, 1), np.float16), 64, 64))
    assert statistics.bits_per_weight == 2 + 2 * 16 / 64
    ragged = weight_statistics(PlaneWeight.of(planes, np.zeros((3, 3, 1), np.float16), 40, 64))
    assert ragged.bits_per_weight == pytest.approx((2 * 64 + 3 * 16) / 40)


def test_bits_per_weight_count_codes_and_factors():
    planes = pack_planes(np.zeros((2, 3, 512)), 128)
    statistics = weight_statistics(PlaneWeight.of(planes, np.zeros((2, 3, 2 + 4), np.uint8), 512, 128))
    assert statistics.bits_per_weight == 2 + 2 * 8 / 128 + 2 * 16 / 512


@given(cases())
def test_rounding_error_is_that_of_the_dense_weights(case):
    rounded = round_scales(case.values)
    weight = PlaneWeight.of(case.planes, case.scales, case.K, case.group_size)
    error, norm = rounding_error(weight, weight.with_scales(rounded))
    weight = dequantize(case.planes, case.scales, case.K, case.group_size)
    difference = weight - dequantize(case.planes, rounded, case.K, case.group_size)
    assert error == pytest.approx(np.square(difference).sum(), rel=1e-9)
    assert norm == pytest.approx(np.square(weight).sum(), rel=1e-9)


def test_sum_of_statistics_is_that_of_both_weights_together():
    one = WeightStatistics(4, 10, (1, 1, 1, 1), 1.0, 4.0)
    two = WeightStatistics(12, 22, (12, 0, 0, 0), 2.0, 8.0)
    both = one + two
    assert both.bits_per_weight == 2
    assert both.density == pytest.approx((2 / 16, 2 / 16))
    assert both.relative_error == 0.25
    assert (one + WeightStatistics(1, 1, (1, 0, 0, 0))).relative_error is None
    with pytest.raises(ValueError, match="shorter"):
        _ = one + of_codes(1, 1)


def test_relative_error_of_zeros_is_zero():
    assert WeightStatistics(1, 1, (1, 0), 0.0, 0.0).relative_error == 0


def test_paper_flops_of_llama_7b_are_the_papers():
    linear, lm_head, width = 6_476_005_376, 131_072_000, 32 * 4096
    # The density that the paper's 29.8 G leave for its planes.
    half = round(linear * 0.403)
    planes = WeightStatistics(linear, 0, (linear - half, 0, 0, half))
    flops = paper_flops([planes], lm_head, width)
    assert flops.full == pytest.approx(423.4e9, rel=1e-4)
    assert flops.quantized == pytest.approx(29.8e9, rel=1e-3)


@given(plane_formats(70), st.integers(0, 2**32 - 1))
def test_statistics_of_any_format_leave_zero_points_and_padding_out_of_the_codes(form, seed):
    weight = random_weight(np.random.default_rng(seed), 3, 70, form)
    statistics = weight_statistics(weight)
    bits = np.unpackbits(weight.planes, axis=2, count=70, bitorder="little")
    assert statistics.weights == 3 * 70
    assert sum(statistics.code_counts) == statistics.weights
    assert statistics.ones == bits.sum()
    assert statistics.density == pytest.approx(bits.mean(axis=(1, 2)))
    assert statistics.stored_bits == 8 * (weight.planes.nbytes + weight.scales.nbytes)


@pytest.mark.parametrize(
    ("zero", "offset", "multiplications", "additions"),
    [
        (0, False, 4, 4 * 2 * 64 + 3 * 4 + 4),  # join 4 sums in each of 4 groups, and add the products
        (8, False, 4 + 2, 4 * 2 * 64 + 3 * 4 + 4 + 64 + 4),  # zero * sum of inputs, once a group for all outputs
        (EACH_GROUP, False, 4 + 4, 4 * 2 * 64 + 3 * 4 + 4 + 64 + 4),
        (0, True, 8, 4 * 2 * 64 + 3 * 4 + 8 + 64),
    ],
)
def test_operations_of_even_levels_join_planes_before_they_multiply(zero, offset, multiplications, additions):
    form = PlaneFormat(4, 32, offset, levels="even", zero=zero)
    counts = operations(2, 64, form, ones=100)
    assert (counts.multiplications, counts.additions) == (multiplications, additions)
    assert counts.set_additions == additions - 4 * 2 * 64 + 100


@pytest.mark.parametrize(
    ("form", "words"),
    [
        (PlaneFormat(2, 64), "2 planes, G=64, free levels, float16 scales"),
        (
            PlaneFormat(3, PER_CHANNEL, True, "symmetric"),
            "3 planes, one group a row, symmetric levels, offset, float16 s",
        ),
        (PlaneFormat(4, 16, levels="even", zero=7.5), "4 planes, G=16, even levels, zero 7.5, float16 scales"),
        (PlaneFormat(4, 32, levels="even", zero=EACH_GROUP), "even levels, a zero for each group, float16 scales"),
        (
            PlaneFormat(1, -1, levels="even", per_tensor=True),
            "1 plane, one group a tensor, even levels, zero 0, float16",
        ),
    ],
)
def test_words_of_a_format(form, words):
    assert words in format_words(form)


def test_layers_are_counted_by_format():
    small, wide = PlaneFormat(2, 64), PlaneFormat(4, 64)
    counts = count_formats([(small, 100, 200), (wide, 50, 225), (small, 300, 800)])
    assert list(counts.values()) == [
        {"layers": 2, "weights": 400, "bits_per_weight": 2.5},
        {"layers": 1, "weights": 50, "bits_per_weight": 4.5},
    ]
