"""Weight initializations: the promises of their results, and that each serves its metric better than the one before."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from calib.quantizer import codes_of, dequantize, nearest, pack
from calib.scale_parameters import checked_parameters, to_scales
from calib.weight_init import WEIGHT_INITS
from calib.weight_init.error_feedback import ErrorFeedback
from calib.weight_init.random_signs import RandomSigns
from calib.weight_init.stored import from_planes
from dualbinary import InputError, padded_k
from dualbinary.contract.weight import PlaneFormat
from tests.support.fitted_layers import initialized

DAMPING = 0.01


def layer(N, K, seed=0):
    """A weight [N, K] and the hessian [K, K] of inputs that are correlated and of very different sizes."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.exp(torch.randn(K, generator=generator))
    shared = torch.randn(4 * K, max(1, K // 8), generator=generator) @ torch.randn(
        max(1, K // 8), K, generator=generator
    )
    x = (shared / max(1, K // 8) ** 0.5 + 0.5 * torch.randn(4 * K, K, generator=generator)) * sizes
    return torch.randn(N, K, generator=generator) * 0.05, x.T @ x / len(x)


def output_error(weight, hessian, state, plane_format):
    """Relative squared error of the outputs for inputs with this hessian."""
    found = dequantize(state.planes, state.scales, weight.shape[1], plane_format.group_size, torch.float32)
    error = weight - found
    return float(((error @ hessian) * error).sum() / ((weight @ hessian) * weight).sum())


def format_for(method, size=32, offset=True):
    symmetric = "fdb" not in WEIGHT_INITS[method].methods
    levels = "symmetric" if symmetric else "free"
    return PlaneFormat(2, size, symmetric or (offset and method != "paper"), levels=levels)


@pytest.mark.parametrize("method", WEIGHT_INITS)
@settings(max_examples=10)
@given(st.integers(1, 6), st.integers(1, 100), st.sampled_from([32, 64]), st.integers(0, 100))
def test_an_initial_weight_is_consistent(method, N, K, size, seed):
    assume(size <= padded_k(K, 32))  # a group is no longer than a row
    weight, hessian = layer(N, K, seed)
    plane_format = format_for(method, size)
    state = initialized(method, weight, hessian, plane_format, "a.layer")
    assert state.planes.shape == (2, N, -(-K // size) * size // 8)
    assert state.scales.shape == (plane_format.scale_rows, N, -(-K // size))
    assert torch.equal(state.scales, state.scales.half().float())  # float16 holds them
    planes = pack(nearest(state.latent, state.scales, 2, size), 2, size)
    values = [dequantize(bits, state.scales, K, size, torch.float32) for bits in (planes, state.planes)]
    assert torch.equal(*values)  # the latents say the same


def test_each_metric_is_served_better_by_its_own_initialization():
    weight, hessian = layer(48, 192)
    error = {}
    for method in WEIGHT_INITS:
        plane_format = format_for(method, offset=False)  # but for QBB's
        error[method] = output_error(
            weight,
            hessian,
            initialized(method, weight, hessian, plane_format, "a.layer"),
            plane_format,
        )
    assert error["error-feedback"] < 0.7 * error["activation"]
    assert error["activation"] < error["fit"] < error["paper"]
    assert error["cascaded"] < error["independent"] < error["random"]


@pytest.mark.parametrize("planes", [1, 2, 3])
def test_initializations_that_look_at_inputs_do_so_with_bases(planes):
    weight, hessian = layer(48, 192)
    plane_format = PlaneFormat(planes, 64, offset=True, levels="symmetric")
    error = {}
    for method, row in WEIGHT_INITS.items():
        if "qbb" in row.methods:
            state = initialized(method, weight, hessian, plane_format, "w")
            error[method] = output_error(weight, hessian, state, plane_format)
            assert torch.equal(to_scales(plane_format, checked_parameters(plane_format, state.scales)), state.scales)
    assert error["error-feedback"] < 0.7 * error["activation"] < 0.7 * error["cascaded"]


def test_refits_polishes_and_offset_each_help():
    weight, hessian = layer(48, 192)

    def error(refits, polishes, offset):
        plane_format = PlaneFormat(2, 64, offset)
        return output_error(
            weight, hessian, ErrorFeedback(refits, polishes, DAMPING)(weight, hessian, plane_format, "w"), plane_format
        )

    assert error(0, 0, False) > error(2, 0, False) > error(2, 2, False) > error(2, 2, True)


def test_error_feedback_on_uncorrelated_inputs_is_least_squares():
    """With H = 1 there is nothing to feed; what remains is the fit of the weights, which refits may only improve."""
    weight, _ = layer(16, 96)
    eye, plane_format = torch.eye(96), PlaneFormat(2, 32, False)
    found = output_error(weight, eye, ErrorFeedback(0, 0, DAMPING)(weight, eye, plane_format, "w"), plane_format)
    wanted = output_error(weight, eye, initialized("fit", weight, eye, plane_format, "w"), plane_format)
    assert found <= wanted * 1.02  # another order of the same alternation


def test_inputs_that_are_always_zero_are_no_trouble():
    weight, hessian = layer(4, 64)
    hessian[:, 10:20] = 0
    hessian[10:20] = 0
    state = ErrorFeedback(4, 2, DAMPING)(weight, hessian, PlaneFormat(2, 32, True), "w")
    assert torch.isfinite(state.scales).all()
    assert torch.isfinite(state.latent).all()


def test_planes_of_others_keep_their_codes():
    weight, hessian = layer(6, 80)
    plane_format = PlaneFormat(2, 32, True)
    state = ErrorFeedback(4, 2, DAMPING)(weight, hessian, plane_format, "w")
    again = from_planes(weight, state.planes, state.scales, plane_format)
    assert torch.equal(nearest(again.latent, again.scales, 2, 32), codes_of(state.planes, 80))


def test_the_papers_initialization_spans_its_levels():
    weight, _ = layer(4, 64)
    scales = initialized("paper", weight, None, PlaneFormat(2, 32, False), "w").scales
    torch.testing.assert_close(scales[0], -2 * scales[1])
    assert (scales[0] > 0).all()


def test_the_papers_initialization_refuses_other_formats_by_name():
    weight, _ = layer(4, 64)
    with pytest.raises(InputError, match=r"a\.layer.*2 planes and no offset"):
        initialized("paper", weight, None, PlaneFormat(3, 32, False), "a.layer")


@pytest.mark.parametrize("method", ["fit", "activation", "error-feedback"])
def test_weights_that_are_not_finite_are_refused_by_name(method):
    weight, hessian = layer(4, 64)
    weight[2, 3] = torch.nan
    with pytest.raises(InputError, match=r"a\.layer"):
        initialized(method, weight, hessian, PlaneFormat(2, 32, True), "a.layer")


@pytest.mark.parametrize("size", [32, 128])
@pytest.mark.parametrize("planes", [1, 2, 3, 4])
def test_the_cascade_takes_signs_and_mean_sizes_of_what_is_left(planes, size):
    """Against a loop over groups; factors differ by what `Format.rounded` may move them."""
    weight, _ = layer(3, 100)
    plane_format = PlaneFormat(planes, size, offset=True, levels="symmetric")
    state = initialized("cascaded", weight, None, plane_format, "w")
    codes, factors = codes_of(state.planes, 100), checked_parameters(plane_format, state.scales)
    for n in range(3):
        for group, rest in enumerate(weight[n].split(size)):
            bits = codes[n].split(size)[group]
            for plane in range(planes):
                assert torch.equal(bits >> plane & 1 == 1, rest >= 0)
                factor = rest.abs().mean()
                limit = 2.0**-11 * factors[:, n, group].abs().sum() * 1.01
                assert abs(factor - factors[plane, n, group]) <= limit
                rest = rest - factor * torch.where(rest >= 0, 1.0, -1.0)


def test_without_cascade_all_bases_are_the_first_one():
    weight, _ = layer(3, 64)
    one = initialized("cascaded", weight, None, PlaneFormat(1, 32, offset=True, levels="symmetric"), "w")
    three = initialized("independent", weight, None, PlaneFormat(3, 32, offset=True, levels="symmetric"), "w")
    assert all(torch.equal(plane, one.planes[0]) for plane in three.planes)
    torch.testing.assert_close(three.scales[:3].sum(0), one.scales[0], rtol=3 * 2.0**-11, atol=0)


def test_random_signs_depend_on_seed_and_name_alone():
    weight, _ = layer(3, 64)
    plane_format = PlaneFormat(2, 32, offset=True, levels="symmetric")

    def planes(seed, name):
        return RandomSigns(seed)(weight, None, plane_format, name).planes

    assert torch.equal(planes(0, "a"), planes(0, "a"))
    assert not torch.equal(planes(0, "a"), planes(1, "a"))
    assert not torch.equal(planes(0, "a"), planes(0, "b"))


@pytest.mark.parametrize("method", ["cascaded", "independent", "random"])
def test_initializations_of_bases_refuse_other_formats_and_broken_weights(method):
    weight, _ = layer(4, 64)
    with pytest.raises(InputError, match=r"a\.layer.*--method qbb"):
        initialized(method, weight, None, PlaneFormat(2, 32, True), "a.layer")
    weight[1, 2] = torch.inf
    with pytest.raises(InputError, match=r"a\.layer.*finite"):
        initialized(method, weight, None, PlaneFormat(2, 32, offset=True, levels="symmetric"), "a.layer")
    with pytest.raises(InputError, match=r"a\.layer.*float16"):
        initialized(
            method, weight.clamp(-1, 1) * 1e6, None, PlaneFormat(2, 32, offset=True, levels="symmetric"), "a.layer"
        )
