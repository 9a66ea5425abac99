"""The quantizer: from latent weights, or from fixed planes, and scales to the weights that a layer multiplies with.

For one output n and one group g of G inputs, with the C scales a of that group (a[P] is the offset, where there is one)
and the bits c[p] of a code c in 0 .. 2^P - 1:

    level[c] = sum over p of a[p] * c[p]  (+ a[P])                     DB-LLM (arXiv 2402.11960), FDB, in general form
    w'[k]    = the level nearest to the latent weight w[k]             quantize
    w'[k]    = level[code[k]]                                          dequantize

DB-LLM writes the nearest level as two nested Heaviside functions. They give it while a2 < 0 < a1 + a2 and not
elsewhere; here the levels are sorted, so that every sign of the scales is allowed. One latent weight decides all
planes: planes with separate latents fight each other.

Gradients, for an incoming G[k] = dL/dw'[k]:

    dL/da[p] = sum over k of G[k] * code[k][p],   dL/da[P] = sum over k of G[k]        exact while no code changes
    dL/dw[k] = G[k] where lowest - h <= w[k] <= highest + h, else 0                    straight through, as LSQ clips

with h half of the outermost step. A gradient passed straight through each Heaviside instead would be multiplied by the
scales (about 0.03 in a real model) and nearly vanish; hence one function for the whole quantizer.

Shapes: weights [N, K]; scales [C, N, groups], C = P or P+1; planes uint8 [P, N, Kp/8] in layout 1. K may end inside a
group; `planes` where it is a number is P.
"""

from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

__all__ = [
    "codes_of",
    "dequantize",
    "grouped",
    "into_cells",
    "levels_of",
    "nearest",
    "pack",
    "quantize",
    "sorted_levels",
    "unpack",
]


def levels_of(scales: Tensor, planes: int) -> Tensor:
    """The level of each code, [2^P, ...], under scales [C, ...]."""
    # Sums, not a product of matrices: autocast would make that one in bfloat16, and move weights to other levels.
    uses = _uses(planes, len(scales), scales).view(1 << planes, len(scales), *[1] * (scales.dim() - 1))
    levels = uses[:, 0] * scales[0]
    for row in range(1, len(scales)):
        levels = torch.addcmul(levels, uses[:, row], scales[row])
    return levels


def _uses(planes: int, rows: int, like: Tensor) -> Tensor:
    """The share that each code uses of each scale: [2^P, C] of 0 and 1, the offset used by all."""
    codes = torch.arange(1 << planes, device=like.device)
    masks = [codes >> plane & 1 for plane in range(planes)] + [torch.ones_like(codes)] * (rows - planes)
    return torch.stack(masks, 1).to(like.dtype)


class SortedLevels(NamedTuple):
    """The levels of each group in ascending order, and what lies between them; L = 2^P.

    Attributes:
        levels: [L, ...].
        cuts: [L-1, ...], the middle of each two neighbors: a weight above cuts[i] is nearer to levels[i+1].
        order: int64 [L, ...], the code of each level.
    """

    levels: Tensor
    cuts: Tensor
    order: Tensor


def sorted_levels(scales: Tensor, planes: int) -> SortedLevels:
    """Sort the levels of scales [C, ...]."""
    levels, order = levels_of(scales, planes).sort(0)
    return SortedLevels(levels, (levels[1:] + levels[:-1]) / 2, order)


def grouped(weights: Tensor, group_size: int) -> Tensor:
    """`weights` [..., K] as [..., groups, G], the last group filled with zeros."""
    missing = -weights.shape[-1] % group_size
    if missing:
        weights = functional.pad(weights, (0, missing))
    return weights.unflatten(-1, (-1, group_size))


def nearest(weights: Tensor, scales: Tensor, planes: int, group_size: int) -> Tensor:
    """Codes uint8 [N, K] of the levels nearest to `weights` [N, K]."""
    table = sorted_levels(scales, planes)
    rank = _rank(grouped(weights, group_size), table.cuts)
    codes = torch.zeros_like(rank)
    for place, code in enumerate(table.order):
        codes += (rank == place) * code.to(torch.uint8)[..., None]
    return codes.flatten(1)[:, : weights.shape[1]]


def into_cells(weights: Tensor, codes: Tensor, scales: Tensor, planes: int, group_size: int) -> Tensor:
    """`weights` [N, K], each moved as little as it takes for its nearest level to be that of its code, uint8 [N, K].

    Codes whose level another code has as well cannot be told apart by a weight; the value of the level is the same.
    """
    table = sorted_levels(scales, planes)
    values, wanted = grouped(weights, group_size), grouped(codes, group_size)
    infinite = torch.full_like(table.cuts[:1], torch.inf)
    lower = torch.cat([-infinite, torch.nextafter(table.cuts, infinite)])
    upper = torch.cat([table.cuts, infinite])
    for low, high, code in zip(lower, upper, table.order, strict=True):
        moved = values.maximum(low[..., None]).minimum(high[..., None])
        values = torch.where(wanted == code[..., None], moved, values)
    return values.flatten(1)[:, : weights.shape[1]]


def _rank(values: Tensor, cuts: Tensor) -> Tensor:
    """The number of cuts [L-1, N, groups] lie below each of `values` [N, groups, G]: uint8."""
    rank = torch.zeros(values.shape, dtype=torch.uint8, device=values.device)
    for cut in cuts:
        rank += values > cut[..., None]
    return rank


def pack(codes: Tensor, planes: int, group_size: int) -> Tensor:
    """Codes uint8 [N, K] as planes uint8 [P, N, Kp/8] of layout 1; padding bits are 0."""
    bytes_ = functional.pad(codes, (0, -codes.shape[1] % group_size)).unflatten(1, (-1, 8))
    weights = 1 << torch.arange(8, device=codes.device, dtype=torch.uint8)
    return torch.stack([((bytes_ >> plane & 1) * weights).sum(2, dtype=torch.uint8) for plane in range(planes)])


def unpack(planes: Tensor, K: int) -> Tensor:
    """Bits uint8 [P, N, K] of planes uint8 [P, N, Kp/8]."""
    # By a table of 8 bits for each byte, moved as one number: shifts of bytes took nine times as long on a CPU.
    bits = _bits_of_bytes(planes.device).index_select(0, planes.int().flatten())
    return bits.view(torch.uint8).view(*planes.shape[:-1], -1)[..., :K]


@cache
def _bits_of_bytes(device: torch.device) -> Tensor:
    """The 8 bits of each byte, one in each byte of an int64 [256]."""
    bits = torch.arange(256)[:, None] >> torch.arange(8) & 1
    return bits.to(torch.uint8).view(torch.int64)[:, 0].contiguous().to(device)


def codes_of(planes: Tensor, K: int) -> Tensor:
    """Codes uint8 [N, K] of planes uint8 [P, N, Kp/8]."""
    bits = unpack(planes, K)
    codes = torch.zeros_like(bits[0])
    for plane, values in enumerate(bits):
        codes |= values << plane
    return codes


def quantize(latent: Tensor, scales: Tensor, planes: int, group_size: int, dtype: torch.dtype) -> Tensor:
    """The quantized weights [N, K] of `latent` [N, K] in `dtype`; differentiable in both arguments."""
    return _Quantize.apply(latent, scales, planes, group_size, dtype)


def dequantize(planes: Tensor, scales: Tensor, K: int, group_size: int, dtype: torch.dtype) -> Tensor:
    """The weights [N, K] that `planes` uint8 [P, N, Kp/8] and `scales` stand for; differentiable in the scales."""
    return _Dequantize.apply(planes, scales, K, group_size, dtype)


class _Quantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, latent: Tensor, scales: Tensor, planes: int, group_size: int, dtype: torch.dtype) -> Tensor:
        table = sorted_levels(scales, planes)
        weights = grouped(latent, group_size)
        rank = torch.zeros(weights.shape, dtype=torch.uint8, device=weights.device)
        result = table.levels[0][..., None].expand(weights.shape).contiguous()
        for cut, step in zip(table.cuts, table.levels[1:] - table.levels[:-1], strict=True):
            above = weights > cut[..., None]
            rank += above
            result.addcmul_(step[..., None], above.to(result.dtype))
        inside = None
        if ctx.needs_input_grad[0]:
            reach = (table.levels[1] - table.levels[0]) / 2, (table.levels[-1] - table.levels[-2]) / 2
            inside = weights >= (table.levels[0] - reach[0])[..., None]
            inside &= weights <= (table.levels[-1] + reach[1])[..., None]
        ctx.save_for_backward(rank, table.order, inside)
        ctx.planes, ctx.group_size, ctx.rows, ctx.scale_dtype = planes, group_size, len(scales), scales.dtype
        return result.flatten(1)[:, : latent.shape[1]].to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, incoming: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        rank, order, inside = ctx.saved_tensors
        flow = grouped(incoming.to(ctx.scale_dtype), ctx.group_size)
        latent_gradient = scale_gradient = None
        if ctx.needs_input_grad[1]:
            # Sums over all weights at a level or above it; a level's own is the difference of two.
            above = [flow.sum(-1), *(_masked_sum(flow, rank >= place) for place in range(1, len(order)))]
            above.append(torch.zeros_like(above[0]))
            uses = _uses(ctx.planes, ctx.rows, flow)[order]  # [L, N, groups, C]
            of_level = torch.stack([here - higher for here, higher in pairwise(above)])
            scale_gradient = (of_level[..., None] * uses).sum(0).movedim(-1, 0)
        if ctx.needs_input_grad[0]:
            latent_gradient = (flow * inside.to(flow.dtype)).flatten(1)[:, : incoming.shape[1]]
        return latent_gradient, scale_gradient, None, None, None


class _Dequantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, planes: Tensor, scales: Tensor, K: int, group_size: int, dtype: torch.dtype) -> Tensor:
        bits = unpack(planes, 8 * planes.shape[2]).unflatten(2, (-1, group_size))
        if len(scales) > len(planes):
            result = scales[-1][..., None].expand(bits.shape[1:]).contiguous()
        else:
            result = torch.zeros(bits.shape[1:], dtype=scales.dtype, device=scales.device)
        for plane, scale in zip(bits, scales, strict=False):
            result.addcmul_(scale[..., None], plane.to(result.dtype))
        ctx.save_for_backward(planes)
        ctx.group_size, ctx.rows, ctx.scale_dtype = group_size, len(scales), scales.dtype
        return result.flatten(1)[:, :K].to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, incoming: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (planes,) = ctx.saved_tensors
        flow = grouped(incoming.to(ctx.scale_dtype), ctx.group_size)
        bits = unpack(planes, 8 * planes.shape[2]).unflatten(2, (-1, ctx.group_size))
        sums = [_masked_sum(flow, plane) for plane in bits]
        if ctx.rows > len(planes):
            sums.append(flow.sum(-1))
        return None, torch.stack(sums), None, None, None


def _masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """The sum over the last axis of `values` [..., G] where `mask` holds.

    As a product of matrices: on a CPU a product with a mask that is not yet of the same type takes ten times as long.
    """
    size = values.shape[-1]
    return torch.bmm(values.reshape(-1, 1, size), mask.to(values.dtype).reshape(-1, size, 1)).view(values.shape[:-1])
