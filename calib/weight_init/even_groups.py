"""Steps of least squares for groups of even levels, each weight with its own importance.

For R groups of g weights w and importances d > 0, numbers q and zero points z:

    minimize   sum over k of d[k] * ( w[k] - s (q[k] - z) - b )^2        over the step s, and the offset b or 0

alternates with giving every weight its nearest level, as least_squares.py does for free levels. It begins at the fit of
dualbinary/fitting, which also chooses the zero points of groups; they stay.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from calib.even_quantizer import even_levels, even_numbers, without_zeros
from calib.scale_parameters import to_parameters, to_scales
from calib.weight_init.least_squares import solve
from dualbinary.contract.weight import PlaneFormat
from dualbinary.fitting.closed_form import fit

__all__ = ["even_features", "fitted_groups", "refine_even"]


def fitted_groups(weights: Tensor, form: PlaneFormat, name: str) -> tuple[Tensor, Tensor | None]:
    """Scales [C, R] and zero points uint8 [R] to begin with for groups [R, g]; g may be less than G.

    Raises InputError for broken weights.
    """
    multiple = min(form.group_size, 32)
    size = -(-weights.shape[1] // multiple) * multiple
    alone = replace(form, group_size=size, scale_dtype=np.dtype(np.float32))  # rounding comes last
    fitted = fit(weights.cpu().numpy(), alone, name=name).weight
    _, zeros = without_zeros(torch.from_numpy(fitted.planes), form.node_levels, weights.shape[1], size)
    scales = torch.from_numpy(fitted.scales[:, :, 0]).to(weights)
    return scales, None if zeros is None else zeros[:, 0].to(weights.device)


def even_features(numbers: Tensor, form: PlaneFormat, zeros: Tensor | None) -> list[Tensor]:
    """What each parameter of the scales is multiplied by for `numbers` [R, g]: [R, g] each."""
    rows = len(to_parameters(form, numbers.new_zeros(form.scale_rows, 1)))
    units = to_scales(form, torch.eye(rows, dtype=numbers.dtype, device=numbers.device))  # [C, rows]
    return [even_levels(numbers, unit[:, None].expand(-1, len(numbers)), form, zeros) for unit in units.T]


def refine_even(
    weights: Tensor, importance: Tensor, scales: Tensor, zeros: Tensor | None, form: PlaneFormat, rounds: int
) -> Tensor:
    """Alternate nearest levels and weighted least squares, from `scales` [C, R]; the best scales [C, R] of each group.

    `weights` and `importance` are [R, g].
    """
    best, min_error = scales, torch.full_like(weights[:, 0], torch.inf)
    for remaining in range(rounds, -1, -1):
        numbers = even_numbers(weights, scales, form, zeros)
        error = (importance * (weights - even_levels(numbers, scales, form, zeros)).square()).sum(1)
        better = error < min_error
        min_error = torch.where(better, error, min_error)
        best = torch.where(better, scales, best)
        if remaining:
            used = torch.stack(even_features(numbers, form, zeros), 1)  # [R, free, g]
            weighted = used * importance[:, None]
            right = (weighted @ weights[..., None])[..., 0]
            free = solve(weighted @ used.transpose(1, 2), right, to_parameters(form, scales))
            scales = to_scales(form, free)
    return best
