"""Layer-wise binarization: what every solver promises, and that the closed form solves its normal equations."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calib.config import LayerConfig
from calib.quantizer import codes_of, dequantize, levels_of
from calib.scale_parameters import checked_parameters
from calib.stages.layerwise import binarize
from dualbinary.contract.weight import PlaneFormat
from tests.support.fitted_layers import initialized

SOLVERS = ("closed-form", "iterative", "simultaneous")


def weight_of(N, K, seed=0):
    return torch.randn(N, K, generator=torch.Generator().manual_seed(seed)) * 0.05


def started(weight, plane_format, method="cascaded"):
    return initialized(method, weight, None, plane_format, "w")


def run(weight, plane_format, solver, method="cascaded", **options):
    config = LayerConfig(solver=solver, steps=20, **options)
    return binarize(weight, started(weight, plane_format, method), plane_format, config, "w")


def error(weight, state, plane_format):
    found = dequantize(state.planes, state.scales, weight.shape[1], plane_format.group_size, torch.float32)
    return float((weight - found).square().sum() / weight.square().sum())


@pytest.mark.parametrize("solver", SOLVERS)
@settings(max_examples=10)
@given(
    st.integers(1, 5),
    st.integers(1, 100),
    st.integers(1, 4),
    st.sampled_from([32, 64, 128]),
    st.sampled_from(["cascaded", "independent", "random"]),
    st.integers(0, 99),
)
def test_a_result_is_no_worse_symmetric_and_as_stored(solver, N, K, planes, size, method, seed):
    weight, plane_format = weight_of(N, K, seed), PlaneFormat(planes, size, offset=True, levels="symmetric")
    found = run(weight, plane_format, solver, method)
    assert found.after <= found.before
    assert found.before == pytest.approx(error(weight, started(weight, plane_format, method), plane_format), rel=1e-5)
    assert found.after == pytest.approx(error(weight, found.state, plane_format), rel=1e-5, abs=1e-12)
    scales = found.state.scales
    assert torch.equal(scales, scales.half().float())
    assert torch.equal(scales[planes], -scales[:planes].sum(0) / 2)
    assert len(found.flipped) == planes
    assert all(0 <= share <= 1 for share in found.flipped)


@pytest.mark.parametrize("planes", [1, 2, 3, 4])
def test_the_closed_form_ends_where_neither_half_can_gain(planes):
    """Bits are the nearest levels; factors solve the normal equations, but for what rounding moves them."""
    weight, plane_format = weight_of(8, 128), PlaneFormat(planes, 64, offset=True, levels="symmetric")
    state = run(weight, plane_format, "closed-form", rounds=500).state
    codes = codes_of(state.planes, 128).view(8, 2, 64)
    values = weight.view(8, 2, 64)
    levels = levels_of(state.scales, planes)  # [2^P, 8, 2]
    distance = (values - levels[..., None]).abs()
    assert torch.equal(distance.gather(0, codes[None].long())[0], distance.min(0).values)
    bases = torch.stack([(codes >> plane & 1) * 2.0 - 1 for plane in range(planes)], -1)  # [8, 2, 64, P]
    best = torch.linalg.lstsq(bases.double(), values[..., None].double()).solution[..., 0].movedim(-1, 0)
    factors = checked_parameters(plane_format, state.scales).double()
    # A factor moves by 2^-11 of the sum of all; weights that this brings over a cut then change the solution, too.
    torch.testing.assert_close(factors, best, rtol=0, atol=float(4 * planes * 2.0**-11 * best.abs().sum(0).max()))


def test_weights_that_are_sums_of_bases_are_found_again():
    """Levels 1, 2 and 4 make eight values that a group of all of them tells: nothing is left over."""
    levels = torch.tensor([-7.0, -5, -3, -1, 1, 3, 5, 7]) / 64
    weight = levels.repeat(4, 8)
    found = run(weight, PlaneFormat(3, 64, offset=True, levels="symmetric"), "closed-form")
    assert found.after < 1e-10
    assert sorted(found.state.scales[:3, 0, 0].tolist()) == [2 / 64, 4 / 64, 8 / 64]


def test_more_bases_and_the_closed_form_help():
    weight = weight_of(32, 256)
    errors = [
        [run(weight, PlaneFormat(n, 64, offset=True, levels="symmetric"), solver).after for n in (1, 2, 3, 4)]
        for solver in SOLVERS[:2]
    ]
    for closed, descended in zip(*errors, strict=True):
        assert closed <= descended
    assert all(one == sorted(one, reverse=True) for one in errors)


@pytest.mark.parametrize("solver", ["iterative", "simultaneous"])
def test_gradients_turn_bits_over(solver):
    found = run(
        weight_of(32, 256), PlaneFormat(2, 64, offset=True, levels="symmetric"), solver, "random", latent_rate=0.1
    )
    assert min(found.flipped) > 0.1
    assert found.after < 0.5 * found.before


def test_one_after_another_is_better_than_all_at_once():
    weight, plane_format = weight_of(64, 256), PlaneFormat(3, 64, offset=True, levels="symmetric")
    assert run(weight, plane_format, "iterative").after < run(weight, plane_format, "simultaneous").after
