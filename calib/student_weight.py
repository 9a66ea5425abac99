"""The weight of the student in the format of its layer: free levels by quantizer.py, even ones by even_quantizer.py.

All that depends on which of the two a format has is here. Scales are those that are stored, [C, N, groups]; `zeros` are
zero points uint8 [N, groups] where every group has one, else None. Planes are as they are stored, with these behind.
"""

import torch
from torch import Tensor

from calib.even_quantizer import (
    dequantize_even,
    even_numbers,
    into_even_cells,
    plane_scales,
    quantize_even,
    with_zeros,
    without_zeros,
)
from calib.quantizer import codes_of, dequantize, grouped, into_cells, nearest, pack, quantize
from dualbinary.contract.weight import PlaneFormat

__all__ = ["into_cells_of", "level_scales", "planes_of", "weight_of_latent", "weight_of_planes"]


def planes_of(latent: Tensor, scales: Tensor, zeros: Tensor | None, form: PlaneFormat) -> Tensor:
    """The planes that `latent` [N, K] decides."""
    if not form.even:
        return pack(nearest(latent, scales, form.planes, form.group_size), form.planes, form.group_size)
    numbers = even_numbers(grouped(latent, form.group_size), scales, form, zeros)
    codes = numbers.to(torch.uint8).flatten(1)[:, : latent.shape[1]]
    return with_zeros(pack(codes, form.planes, form.group_size), zeros)


def weight_of_latent(
    latent: Tensor, scales: Tensor, zeros: Tensor | None, form: PlaneFormat, dtype: torch.dtype = torch.float32
) -> Tensor:
    """The weight [N, K] that `latent` [N, K] and `scales` decide; differentiable in both."""
    if form.even:
        return quantize_even(latent, scales, form, zeros, dtype)
    return quantize(latent, scales, form.planes, form.group_size, dtype)


def weight_of_planes(
    planes: Tensor, scales: Tensor, K: int, form: PlaneFormat, dtype: torch.dtype = torch.float32
) -> Tensor:
    """The weight [N, K] that planes and `scales` stand for; differentiable in the scales."""
    if form.even:
        return dequantize_even(planes, scales, K, form, dtype)
    return dequantize(planes, scales, K, form.group_size, dtype)


def into_cells_of(planes: Tensor, weights: Tensor, scales: Tensor, form: PlaneFormat) -> Tensor:
    """`weights` [N, K], each moved no further than it takes for its nearest level to be the one that `planes` say."""
    K = weights.shape[1]
    bits, zeros = without_zeros(planes, form.node_levels, K, form.group_size)
    codes = codes_of(bits, K)
    if form.even:
        return into_even_cells(weights, codes, scales, form, zeros)
    return into_cells(weights, codes, scales, form.planes, form.group_size)


def level_scales(planes: Tensor, scales: Tensor, K: int, form: PlaneFormat) -> tuple[Tensor, Tensor]:
    """Planes [P, N, Kp/8] and scales [C', N, groups] of free levels that mean the same."""
    if not form.even:
        return planes, scales
    planes, zeros = without_zeros(planes, form.node_levels, K, form.group_size)
    return planes, plane_scales(scales, form.node_levels, form.planes, zeros)
