"""The quantizer of evenly spaced levels: from latent weights, or from fixed planes, and a step to weights.

For one output n and one group g of G inputs, with the step s, the zero point z and the offset b of the group (a format
has one of the two; the other is 0), L = 2^P - 1:

    x[k]  = (w[k] - b) / s + z                   the place of the latent weight w[k] among 0, 1, ..., L
    q[k]  = clip(round(x[k]), 0, L)              its number, whose bits the planes hold
    w'[k] = s (q[k] - z) + b

Gradients for an incoming G[k] = dL/dw'[k]. Where a latent decides, rounding passes its gradient straight through, and
clipping passes none; so it is in LSQ (Esser et al. 2020, arXiv 1902.08153), and with an offset in LSQ+ (Bhalgat et al.
2020, arXiv 2004.09576). Inside is where round(x[k]) is no less than 0 and no more than L:

                 inside                     outside
    dL/dw[k]     G[k]                       0
    dL/ds        G[k] (q[k] - x[k])         G[k] (q[k] - z)                summed over k
    dL/db        0                          G[k]                           summed over k

Where planes are fixed, dL/ds and dL/db are those of the right column for every k. LSQ divides dL/ds by the square root
of G L; Adam, which trains steps here, does not see such a factor.

A step may be negative, and that of a group of zeros is 0: every number means the same then, and round(z) stands for it.
Shapes: weights [N, K]; scales [1, N, groups], the step, or [2, ...], with the offset; zeros uint8 [N, groups] where
every group has its own z, else None.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from calib.quantizer import codes_of, grouped, pack
from dualbinary.contract.levels import Levels
from dualbinary.contract.weight import PlaneFormat

__all__ = [
    "dequantize_even",
    "even_levels",
    "even_numbers",
    "into_even_cells",
    "plane_scales",
    "quantize_even",
    "with_zeros",
    "without_zeros",
]

CELL = 0.499  # how far from its level, in steps, a weight is put that is moved into the cell of a number


def even_numbers(values: Tensor, scales: Tensor, form: PlaneFormat, zeros: Tensor | None = None) -> Tensor:
    """The numbers q [..., G] of the levels nearest to `values` [..., G], as floats; scales [C, ...], zeros [...]."""
    return _places(values, scales, form, zeros).round().clamp_(0, (1 << form.planes) - 1)


def even_levels(numbers: Tensor, scales: Tensor, form: PlaneFormat, zeros: Tensor | None = None) -> Tensor:
    """The levels [..., G] that `numbers` [..., G] of any type stand for."""
    return _levels(numbers.to(scales.dtype) - _zero(form.node_levels, zeros, scales), scales)


def into_even_cells(
    weights: Tensor, numbers: Tensor, scales: Tensor, form: PlaneFormat, zeros: Tensor | None = None
) -> Tensor:
    """`weights` [N, K], each whose nearest level is not that of its number [N, K] moved just into the cell of it."""
    values, wanted = grouped(weights, form.group_size), grouped(numbers, form.group_size)
    level, reach = even_levels(wanted, scales, form, zeros), CELL * scales[0].abs()[..., None]
    moved = torch.minimum(torch.maximum(values, level - reach), level + reach)
    there = even_numbers(values, scales, form, zeros) == wanted
    return torch.where(there, values, moved).flatten(1)[:, : weights.shape[1]]


def plane_scales(scales: Tensor, levels: Levels, planes: int, zeros: Tensor | None = None) -> Tensor:
    """The scales [C', ...] of free levels that mean the same: one for each plane, and an offset where there is one."""
    rows = [scales[0] * (1 << plane) for plane in range(planes)]
    if len(scales) > 1:
        rows.append(scales[1])
    elif levels.twice_zero:
        rows.append(-scales[0] * _zero(levels, zeros, scales).squeeze(-1))
    return torch.stack(rows)


def with_zeros(planes: Tensor, zeros: Tensor | None) -> Tensor:
    """Planes uint8 [P, N, Kp/8] with the zero points of the groups behind them, as they are stored."""
    return planes if zeros is None else torch.cat([planes, pack(zeros, len(planes), 8)], 2)


def without_zeros(planes: Tensor, levels: Levels, K: int, group_size: int) -> tuple[Tensor, Tensor | None]:
    """Planes [P, N, Kp/8] and zero points uint8 [N, groups], or None, of planes as they are stored."""
    if not levels.group_zeros:
        return planes, None
    groups = -(-K // group_size)
    width = groups * group_size // 8
    return planes[:, :, :width], codes_of(planes[:, :, width:], groups)


def quantize_even(
    latent: Tensor, scales: Tensor, form: PlaneFormat, zeros: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """The quantized weights [N, K] of `latent` [N, K] in `dtype`; differentiable in latent and scales."""
    return _QuantizeEven.apply(latent, scales, form, zeros, dtype)


def dequantize_even(planes: Tensor, scales: Tensor, K: int, form: PlaneFormat, dtype: torch.dtype) -> Tensor:
    """The weights [N, K] that planes uint8 as stored and `scales` stand for; differentiable in the scales."""
    return _DequantizeEven.apply(planes, scales, K, form, dtype)


def _zero(levels: Levels, zeros: Tensor | None, like: Tensor) -> Tensor:
    """The zero point of every group, [..., 1] or one number."""
    return like.new_tensor([levels.twice_zero / 2]) if zeros is None else zeros.to(like.dtype)[..., None]


def _places(values: Tensor, scales: Tensor, form: PlaneFormat, zeros: Tensor | None) -> Tensor:
    step = scales[0][..., None]
    from_offset = values - scales[1][..., None] if len(scales) > 1 else values
    return from_offset / torch.where(step == 0, torch.inf, step) + _zero(form.node_levels, zeros, scales)


def _levels(steps: Tensor, scales: Tensor) -> Tensor:
    """The levels of q - z [..., G]."""
    return (
        torch.addcmul(scales[1][..., None], steps, scales[0][..., None])
        if len(scales) > 1
        else (steps * scales[0][..., None])
    )


class _QuantizeEven(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, latent: Tensor, scales: Tensor, form: PlaneFormat, zeros: Tensor | None, dtype: torch.dtype
    ) -> Tensor:
        numbers = even_numbers(grouped(latent, form.group_size), scales, form, zeros)
        ctx.save_for_backward(latent, scales, zeros)
        ctx.form = form
        return even_levels(numbers, scales, form, zeros).flatten(1)[:, : latent.shape[1]].to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, incoming: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        latent, scales, zeros = ctx.saved_tensors
        form, K = ctx.form, incoming.shape[1]
        flow = grouped(incoming.to(scales.dtype), form.group_size)
        # Places are made again: to keep them would take as much memory as the latents.
        places = _places(grouped(latent, form.group_size), scales, form, zeros)
        rounded = places.round()
        numbers = rounded.clamp(0, (1 << form.planes) - 1)
        inside = rounded == numbers
        latent_gradient = scale_gradient = None
        if ctx.needs_input_grad[1]:
            outside = numbers - _zero(form.node_levels, zeros, scales)
            sums = [_sum_of_products(flow, torch.where(inside, numbers - places, outside))]
            if len(scales) > 1:
                sums.append(_sum_of_products(flow, (~inside).to(flow.dtype)))
            scale_gradient = torch.stack(sums)
        if ctx.needs_input_grad[0]:
            latent_gradient = (flow * inside).flatten(1)[:, :K]
        return latent_gradient, scale_gradient, None, None, None


class _DequantizeEven(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, planes: Tensor, scales: Tensor, K: int, form: PlaneFormat, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(planes)
        ctx.form, ctx.K, ctx.rows, ctx.scale_dtype = form, K, len(scales), scales.dtype
        return _levels(_steps(planes, K, form, scales.dtype), scales).flatten(1)[:, :K].to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, incoming: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (planes,) = ctx.saved_tensors
        flow = grouped(incoming.to(ctx.scale_dtype), ctx.form.group_size)
        sums = [_sum_of_products(flow, _steps(planes, ctx.K, ctx.form, ctx.scale_dtype))]
        if ctx.rows > 1:
            sums.append(flow.sum(-1))
        return None, torch.stack(sums), None, None, None


def _steps(planes: Tensor, K: int, form: PlaneFormat, dtype: torch.dtype) -> Tensor:
    """Q - z, [N, groups, G]."""
    planes, zeros = without_zeros(planes, form.node_levels, K, form.group_size)
    numbers = grouped(codes_of(planes, 8 * planes.shape[2]), form.group_size).to(dtype)
    return numbers.sub_(_zero(form.node_levels, zeros, numbers))


def _sum_of_products(a: Tensor, b: Tensor) -> Tensor:
    """The sum over the last axis of a * b, [...] from two times [..., G]."""
    size = a.shape[-1]
    return torch.bmm(a.reshape(-1, 1, size), b.reshape(-1, size, 1)).view(a.shape[:-1])
