"""Scales of least squares for groups of weights, each weight with its own importance.

For R groups of g weights w, importances d > 0 and a code for each weight:

    minimize   sum over k of d[k] * ( w[k] - sum over p of a[p] * code[k][p] (- a[P]) )^2        over the C scales a

is a C x C system for each group. `refine` alternates it with giving every weight its nearest level, as
dualbinary/fitting does without importances, and starts from there. Where the format is symmetric the same holds with a
sign in place of a bit, and it begins at the cascade; what is solved for are the free parameters of the format.
"""

from dataclasses import replace

import torch
from torch import Tensor

from calib.quantizer import levels_of, sorted_levels
from calib.scale_parameters import to_parameters, to_scales
from calib.weight_init.cascaded import cascaded
from dualbinary.contract.weight import PlaneFormat
from dualbinary.fitting.closed_form import fit

__all__ = ["RIDGE", "fitted_scales", "refine", "solve"]

# Share of the mean diagonal that is added to it, toward the scales before: decides for planes that no weight uses.
RIDGE = 1e-4
TINY = 1e-12  # keeps a group of zeros solvable


def fitted_scales(weights: Tensor, plane_format: PlaneFormat, name: str) -> Tensor:
    """Scales [C, R] to begin with for groups [R, g]; g may be less than G. Raises InputError for broken weights."""
    size = -(-weights.shape[1] // 32) * 32
    if plane_format.symmetric:
        return cascaded(weights, replace(plane_format, group_size=size), name).scales[:, :, 0]
    fitted = fit(weights.cpu().numpy(), PlaneFormat(plane_format.planes, size, plane_format.offset), name=name).weight
    return torch.from_numpy(fitted.scales[:, :, 0]).to(weights)


def solve(gram: Tensor, right: Tensor, before: Tensor, ridge: float = RIDGE) -> Tensor:
    """Solve gram [R, C, C] a = right [R, C] with a pull to `before` [C, R]; returns [C, R]."""
    pull = ridge * gram.diagonal(dim1=1, dim2=2).mean(1) + TINY
    gram = gram + torch.diag_embed(pull[:, None].expand(right.shape))
    return torch.linalg.solve(gram, right + pull[:, None] * before.T).T


def refine(
    weights: Tensor, importance: Tensor, scales: Tensor, plane_format: PlaneFormat, rounds: int
) -> tuple[Tensor, Tensor]:
    """Alternate nearest levels and weighted least squares, from `scales` [C, R], and keep the best of each group.

    `weights` and `importance` are [R, g]. Returns scales [C, R] and the weighted squared error [R].
    """
    uses = _uses(plane_format, scales)
    total = (importance * weights * weights).sum(1)
    best, min_error = scales, torch.full_like(total, torch.inf)
    for remaining in range(rounds, -1, -1):
        table = sorted_levels(scales, plane_format.planes)
        counts, sums = _level_sums(weights, importance, table.cuts)
        error = total - 2 * (sums * table.levels).sum(0) + (counts * table.levels**2).sum(0)
        better = error < min_error
        min_error = torch.where(better, error, min_error)
        best = torch.where(better, scales, best)
        if remaining:
            used = uses[table.order]  # [L, R, free]
            gram = torch.einsum("lr,lrc,lrd->rcd", counts, used, used)
            right = torch.einsum("lr,lrc->rc", sums, used)
            scales = to_scales(plane_format, solve(gram, right, to_parameters(plane_format, scales)))
    return best, min_error


def _uses(plane_format: PlaneFormat, scales: Tensor) -> Tensor:
    """[2^P, free]: the share of each free parameter in the level of each code."""
    units = torch.eye(len(to_parameters(plane_format, scales)), dtype=scales.dtype, device=scales.device)
    return levels_of(to_scales(plane_format, units), plane_format.planes)


def _level_sums(weights: Tensor, importance: Tensor, cuts: Tensor) -> tuple[Tensor, Tensor]:
    """For each level, in ascending order, the sums [L, R] of d and of d * w over the weights nearest to it."""
    weighted = importance * weights
    above_counts, above_sums = [importance.expand_as(weights).sum(1)], [weighted.sum(1)]
    for cut in cuts:
        above = (weights > cut[:, None]).to(weights.dtype)
        above_counts.append((above * importance).sum(1))
        above_sums.append((above * weighted).sum(1))
    return _differences(above_counts), _differences(above_sums)


def _differences(above: list[Tensor]) -> Tensor:
    stacked = torch.stack([*above, torch.zeros_like(above[0])])
    return stacked[:-1] - stacked[1:]
