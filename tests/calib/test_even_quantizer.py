"""Even levels: the formula weight by weight, the contract, and gradients against autograd on the formula."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from calib.even_quantizer import dequantize_even, even_numbers, into_even_cells, quantize_even, with_zeros
from calib.quantizer import grouped, pack
from calib.scale_parameters import round_parameters, stored_array, to_parameters, to_scales
from calib.student_weight import into_cells_of, level_scales, planes_of, weight_of_latent, weight_of_planes
from dualbinary.contract.levels import free_scales
from dualbinary.contract.scale_codes import BFLOAT16
from dualbinary.contract.weight import EACH_GROUP, PlaneFormat, PlaneWeight


@st.composite
def forms(draw):
    planes = draw(st.integers(1, 8))
    offset = draw(st.booleans())
    zeros = st.just(EACH_GROUP) | st.integers(0, 2 * ((1 << planes) - 1)).map(lambda twice: twice / 2)
    zero = 0 if offset else draw(zeros)
    return PlaneFormat(planes, draw(st.sampled_from([16, 32, 64])), offset, levels="even", zero=zero)


SIZES = st.tuples(st.integers(1, 4), st.integers(33, 100), st.integers(0, 1000))  # N, K, seed


def drawn(form, N, K, seed, dtype=torch.float64):
    """Weights [N, K] of which some lie outside the levels, scales of either sign, and zero points or None."""
    generator = torch.Generator().manual_seed(seed)
    groups = form.groups(K)
    scales = torch.randn(form.scale_rows, N, groups, generator=generator, dtype=dtype) * 0.1
    scales[0] = torch.where(scales[0].abs() < 0.01, 0.05, scales[0])
    weights = torch.randn(N, K, generator=generator, dtype=dtype) * 0.06 * (1 << form.planes)
    zeros = None
    if form.zero == EACH_GROUP:
        zeros = torch.randint(0, 1 << form.planes, (N, groups), generator=generator, dtype=torch.uint8)
    return weights, scales, zeros


def of_inputs(values, form, K):
    """Values [N, groups] for each input, [N, K]."""
    return values.repeat_interleave(form.group_size, 1)[:, :K]


def formula(latent, scales, zeros, form):
    """The formula with rounding passed straight through, in operations that autograd knows."""
    K = latent.shape[1]
    step = of_inputs(scales[0], form, K)
    offset = of_inputs(scales[1], form, K) if form.offset else 0
    zero = of_inputs(zeros.to(latent.dtype), form, K) if zeros is not None else form.zero
    place = (latent - offset) / step + zero
    number = (place + (place.round() - place).detach()).clamp(0, (1 << form.planes) - 1)
    return step * (number - zero) + offset


@given(forms(), SIZES)
def test_values_and_gradients_are_those_of_the_formula(form, sizes):
    latent, scales, zeros = drawn(form, *sizes)
    flow = torch.randn(latent.shape, generator=torch.Generator().manual_seed(1), dtype=latent.dtype)
    latent.requires_grad_()
    scales.requires_grad_()
    wanted = formula(latent, scales, zeros, form)
    found = quantize_even(latent, scales, form, zeros, torch.float64)
    torch.testing.assert_close(found, wanted)
    gradients = (torch.autograd.grad(made, (latent, scales), flow) for made in (found, wanted))
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs)


@given(forms(), SIZES)
def test_fixed_planes_are_the_same_weight_and_the_contracts(form, sizes):
    latent, scales, zeros = drawn(form, *sizes, dtype=torch.float32)
    K = latent.shape[1]
    scales = to_scales(form, round_parameters(form, to_parameters(form, scales)))
    planes = planes_of(latent, scales, zeros, form)
    decided = weight_of_latent(latent, scales, zeros, form)
    assert torch.equal(weight_of_planes(planes, scales, K, form), decided)
    stored = PlaneWeight(planes.numpy(), stored_array(form, scales), K, form.for_inputs(K))
    stored.check()
    # The contract computes in float64; a product of a float16 step and a number is exact in float32, a sum is rounded.
    np.testing.assert_allclose(decided.numpy(), stored.dequantize(), rtol=2**-23, atol=1e-12)


@given(forms(), SIZES)
def test_step_and_offset_of_fixed_planes_have_the_gradient_of_a_linear_function(form, sizes):
    latent, scales, zeros = drawn(form, *sizes)
    K = latent.shape[1]
    planes = planes_of(latent, scales, zeros, form)
    number = even_numbers(grouped(latent, form.group_size), scales, form, zeros).flatten(1)[:, :K]
    zero = form.zero if zeros is None else of_inputs(zeros.double(), form, K)
    scales.requires_grad_()
    linear = of_inputs(scales[0], form, K) * (number - zero) + (of_inputs(scales[1], form, K) if form.offset else 0)
    found = dequantize_even(planes, scales, K, form, torch.float64)
    torch.testing.assert_close(found, linear)
    flow = torch.randn(latent.shape, generator=torch.Generator().manual_seed(1), dtype=latent.dtype)
    torch.testing.assert_close(*(torch.autograd.grad(made, scales, flow)[0] for made in (found, linear)))


@given(forms(), SIZES, st.integers(0, 1000))
def test_latents_are_moved_into_the_cell_of_any_number(form, sizes, other):
    weights, scales, zeros = drawn(form, *sizes, dtype=torch.float32)
    generator = torch.Generator().manual_seed(other)
    numbers = torch.randint(0, 1 << form.planes, weights.shape, generator=generator, dtype=torch.uint8)
    planes = with_zeros(pack(numbers, form.planes, form.group_size), zeros)
    moved = into_cells_of(planes, weights, scales, form)
    assert torch.equal(moved, into_even_cells(weights, numbers, scales, form, zeros))
    assert torch.equal(planes_of(moved, scales, zeros, form), planes)
    stays = even_numbers(grouped(weights, form.group_size), scales, form, zeros).flatten(1)[:, : weights.shape[1]]
    assert torch.equal(moved[stays == numbers], weights[stays == numbers])


@given(forms(), SIZES)
def test_scales_of_planes_are_the_contracts(form, sizes):
    latent, scales, zeros = drawn(form, *sizes, dtype=torch.float32)
    planes = planes_of(latent, scales, zeros, form)
    bits, rows = level_scales(planes, scales, latent.shape[1], form)
    assert torch.equal(bits, planes[:, :, : bits.shape[2]])
    wanted = free_scales(scales.numpy(), form.node_levels, form.planes, None if zeros is None else zeros.numpy())
    np.testing.assert_allclose(rows.numpy(), wanted, rtol=2**-23)


def test_a_group_of_zeros_has_a_step_of_zero_and_no_gradient_that_is_not_finite():
    form = PlaneFormat(3, 32, levels="even", zero=3.5)
    latent, scales = torch.zeros(2, 32, requires_grad=True), torch.zeros(1, 2, 1, requires_grad=True)
    made = quantize_even(latent, scales, form, None, torch.float32)
    assert torch.equal(made, torch.zeros(2, 32))
    made.backward(torch.ones(2, 32))
    assert latent.grad is not None
    assert scales.grad is not None
    assert latent.grad.isfinite().all()
    assert scales.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [np.dtype(np.float16), np.dtype(np.float32), BFLOAT16])
@pytest.mark.parametrize("levels", ["free", "symmetric", "even"])
def test_rounded_parameters_are_held_by_the_type_of_the_format(dtype, levels):
    form = PlaneFormat(3, 32, offset=True, levels=levels, scale_dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    rows = 3 if levels == "symmetric" else form.scale_rows
    scales = to_scales(form, round_parameters(form, torch.randn(rows, 5, 7, generator=generator)))
    again = to_scales(form, round_parameters(form, to_parameters(form, scales)))
    assert torch.equal(again, scales)
    weight = PlaneWeight(np.zeros((3, 5, 28), np.uint8), stored_array(form, scales), 224, form)
    weight.check()
    codes = np.full((5, 224), 7, np.uint8)
    full = PlaneWeight(pack(torch.from_numpy(codes), 3, 32).numpy(), weight.scales, 224, form).dequantize()
    found = weight_of_planes(pack(torch.from_numpy(codes), 3, 32), scales, 224, form)
    np.testing.assert_allclose(found.numpy(), full, rtol=2**-21, atol=1e-6)
