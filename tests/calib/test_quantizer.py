"""The quantizer against the equations written out weight by weight, and its gradients against finite differences."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from calib.quantizer import codes_of, dequantize, into_cells, nearest, pack, quantize, unpack

SHAPES = st.tuples(
    st.integers(1, 5),  # N
    st.integers(1, 100),  # K
    st.integers(1, 3),  # P
    st.sampled_from([32, 64, 96]),
    st.booleans(),  # offset
    st.integers(0, 1000),  # seed
)


def drawn(N, K, planes, size, offset, seed, dtype=torch.float32):
    """Weights [N, K] and scales [C, N, groups] of either sign; levels of different codes are never equal."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(N, K, generator=generator, dtype=dtype)
    scales = torch.randn(planes + offset, N, -(-K // size), generator=generator, dtype=dtype)
    return weights, scales


def levels(scales, planes, n, group):
    """The level of each code of a group, from the sum that defines it."""
    own = scales[:, n, group]
    bits = [code[::-1] for code in itertools.product((0, 1), repeat=planes)]  # bit p of the code is plane p
    offset = own[planes] if len(own) > planes else torch.zeros_like(own[0])
    return torch.stack([sum(own[p] * bit[p] for p in range(planes)) + offset for bit in bits])


@given(SHAPES)
def test_a_weight_becomes_its_nearest_level(shape):
    N, K, planes, size, _, _ = shape
    weights, scales = drawn(*shape)
    result = quantize(weights, scales, planes, size, torch.float32)
    for n, k in itertools.product(range(N), range(K)):
        possible = levels(scales, planes, n, k // size)
        distances = (possible - weights[n, k]).abs()
        assert (result[n, k] - weights[n, k]).abs() <= distances.min() + 1e-5  # sums in another order
        assert (possible - result[n, k]).abs().min() <= 1e-5


@given(SHAPES)
def test_codes_say_what_the_latent_says(shape):
    _, K, planes, size, _, _ = shape
    weights, scales = drawn(*shape)
    stored = pack(nearest(weights, scales, planes, size), planes, size)
    assert stored.shape == (planes, len(weights), -(-K // size) * size // 8)
    wanted = quantize(weights, scales, planes, size, torch.float32)
    found = dequantize(stored, scales, K, size, torch.float32)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


@given(SHAPES)
def test_planes_hold_bit_k_of_an_output_in_bit_k_of_its_bytes(shape):
    N, K, planes, size, _, seed = shape
    codes = torch.randint(0, 1 << planes, (N, K), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    stored = pack(codes, planes, size)
    for p, n, k in itertools.product(range(planes), range(N), range(8 * stored.shape[2])):
        bit = stored[p, n, k // 8] >> (k % 8) & 1
        assert bit == (codes[n, k] >> p & 1 if k < K else 0)
    assert torch.equal(codes_of(stored, K), codes)
    assert torch.equal(unpack(stored, K), torch.stack([codes >> p & 1 for p in range(planes)]))


@given(SHAPES, st.integers(0, 1000))
def test_latents_are_moved_into_the_cell_of_any_code(shape, other):
    N, K, planes, size, _, _ = shape
    weights, scales = drawn(*shape)
    codes = torch.randint(0, 1 << planes, (N, K), generator=torch.Generator().manual_seed(other), dtype=torch.uint8)
    moved = into_cells(weights, codes, scales, planes, size)
    assert torch.equal(nearest(moved, scales, planes, size), codes)
    stays = nearest(weights, scales, planes, size) == codes
    assert torch.equal(moved[stays], weights[stays])


@given(SHAPES)
def test_scale_gradients_are_those_of_the_levels(shape):
    _, K, planes, size, _, _ = shape
    weights, scales = drawn(*shape)
    flow = torch.randn(weights.shape, generator=torch.Generator().manual_seed(1))
    codes = nearest(weights, scales, planes, size)
    wanted = torch.zeros_like(scales)
    for n, k in itertools.product(*map(range, weights.shape)):
        for p in range(planes):
            wanted[p, n, k // size] += flow[n, k] * (codes[n, k] >> p & 1)
        if len(scales) > planes:
            wanted[planes, n, k // size] += flow[n, k]
    scales.requires_grad_()
    for made in (
        quantize(weights, scales, planes, size, torch.float32),
        dequantize(pack(codes, planes, size), scales, K, size, torch.float32),
    ):
        (found,) = torch.autograd.grad(made, scales, flow)
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@given(SHAPES)
def test_latent_gradients_pass_inside_the_levels_and_half_a_step_beyond(shape):
    _, _, planes, size, _, _ = shape
    weights, scales = drawn(*shape)
    weights = weights * 4  # so that some lie outside
    flow = torch.randn(weights.shape, generator=torch.Generator().manual_seed(1))
    latent = weights.clone().requires_grad_()
    (found,) = torch.autograd.grad(quantize(latent, scales, planes, size, torch.float32), latent, flow)
    for n, k in itertools.product(*map(range, weights.shape)):
        ordered = levels(scales, planes, n, k // size).sort().values
        low, high = ordered[0] - (ordered[1] - ordered[0]) / 2, ordered[-1] + (ordered[-1] - ordered[-2]) / 2
        if min((weights[n, k] - low).abs(), (weights[n, k] - high).abs()) > 1e-4:  # rounding decides nearer than that
            assert found[n, k] == (flow[n, k] if low < weights[n, k] < high else 0)


@pytest.mark.parametrize("offset", [False, True])
def test_gradcheck_in_the_scales(offset):
    """The quantized weights are linear in the scales while no code changes; 1e-6 is far from every cut here."""
    weights, scales = drawn(2, 70, 2, 32, offset, seed=3, dtype=torch.float64)
    scales.requires_grad_()
    planes = pack(nearest(weights, scales.detach(), 2, 32), 2, 32)
    assert torch.autograd.gradcheck(lambda a: dequantize(planes, a, 70, 32, torch.float64), scales)
    assert torch.autograd.gradcheck(lambda a: quantize(weights, a, 2, 32, torch.float64), scales)


def test_levels_are_exact_where_products_are_in_bfloat16():
    torch.manual_seed(0)
    latent, scales = torch.randn(16, 96), torch.randn(3, 16, 3)
    wanted = quantize(latent, scales, 2, 32, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantize(latent, scales, 2, 32, torch.float32), wanted)
