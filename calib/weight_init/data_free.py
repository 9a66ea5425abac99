"""Weight initializations that look at the weight alone.

paper    DB-LLM: the proxy quantizer w' = s * clamp(round(w/s), -1, 2) with the s of least squared error among clips of
         the group's root mean square, then a1 = 2s and a2 = -s, whose levels -s, 0, s, 2s are the proxy's. Two planes,
         no offset. (The paper's proxy is signed 2-bit, -2 .. 1; a1 = 2s, a2 = -s spans -1 .. 2.)
fit      alternating least squares over levels and scales from several beginnings: dualbinary/fitting, as in an export
         without calibration.
"""

import torch
from torch import Tensor

from calib.quantizer import grouped, nearest, pack
from calib.scale_parameters import scale_type
from calib.student_weight import into_cells_of
from calib.weight_init.base import InitialWeight
from dualbinary import InputError
from dualbinary.contract.scale_codes import scale_values
from dualbinary.contract.weight import PlaneFormat
from dualbinary.fitting.closed_form import fit

__all__ = ["closed_form", "paper"]

# Steps of the proxy tried, in units of the group's root mean square: around 1.05, the best for Gaussian weights.
CLIPS = tuple(0.5 + 0.1 * i for i in range(14))


def paper(weight: Tensor, plane_format: PlaneFormat, name: str) -> InitialWeight:
    """Initialize `weight` [N, K] as DB-LLM does. Raises InputError where the format is not the paper's."""
    if plane_format.planes != 2 or plane_format.offset or plane_format.levels != "free":
        raise InputError(
            f"{name}: the paper's initialization has 2 planes and no offset, the format {plane_format.planes} "
            f"planes and {'an' if plane_format.offset else 'no'} offset, with {plane_format.levels} levels; choose "
            "another --init-method, or --planes 2 --no-offset --levels free"
        )
    groups = grouped(weight, plane_format.group_size)
    rms = groups.square().mean(2).sqrt().clamp_min(torch.finfo(torch.float16).tiny)
    min_error, step = torch.full_like(rms, torch.inf), rms
    for clip in CLIPS:
        size = clip * rms[..., None]
        error = (groups - size * (groups / size).round().clamp(-1, 2)).square().sum(2)
        step = torch.where(error < min_error, size[..., 0], step)
        min_error = torch.minimum(error, min_error)
    scales = torch.stack([2 * step, -step]).to(scale_type(plane_format)).float()
    codes = nearest(weight, scales, plane_format.planes, plane_format.group_size)
    return InitialWeight(pack(codes, plane_format.planes, plane_format.group_size), scales, weight.clone())


def closed_form(weight: Tensor, plane_format: PlaneFormat, name: str, threads: int = 1) -> InitialWeight:
    """The result of the data-free fit for `weight` [N, K]. Raises InputError as `fit` does."""
    fitted = fit(weight.cpu().numpy(), plane_format, threads=threads, name=name).weight
    planes = torch.from_numpy(fitted.planes).to(weight.device)
    scales = torch.from_numpy(scale_values(fitted.scales)).to(weight)
    return InitialWeight(planes, scales, into_cells_of(planes, weight, scales, plane_format))
