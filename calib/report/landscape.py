"""Flatness of the loss around the levels of one quantized layer: as binary, as uniform 2-bit and as two planes.

DB-LLM (arXiv 2402.11960) argues for its two planes with a picture: of the three, theirs lies in the widest valley. Here
one layer alone is quantized, the planes stay, and the two parameters that place its levels are multiplied by factors
around 1, in all groups alike:

    format     levels                                     parameters
    binary     offset, offset + step                      step, offset
    uniform    zero + (0, 1, 2, 3) * step                 step, zero
    fdb        0, a1, a2, a1 + a2                         a1, a2

The three are fitted by least squares to the same weight in the same groups. Their numbers of stored bits differ, and so
do their losses at the center; what is compared is by how much the loss rises around it. Parameters that mean different
things are changed by the same factors, so it is a picture of how much care each format needs, not a measure.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, functional

from calib.layers import QuantLinear
from calib.models.blocks import autocast
from calib.models.source import SourceModel
from calib.quantizer import grouped, pack
from calib.weight_init.data_free import closed_form
from dualbinary import OP, InputError
from dualbinary.contract.weight import PlaneFormat

__all__ = ["FORMATS", "POINTS", "landscape"]

FORMATS = ("binary", "uniform", "fdb")
REACH = 0.5  # factors from 1 - REACH to 1 + REACH
POINTS = 9  # of them; odd, so that 1 is among them

# Rounds of the uniform fit, and its step to begin with in standard deviations: best for Gaussian weights (Max 1960).
ROUNDS, GAUSSIAN_STEP = 10, 0.9957
MAX_CODE = 3
MIN_STEP = torch.finfo(torch.float16).tiny  # of a group of equal weights, whose step is 0


@dataclass(frozen=True)
class _FittedWeight:
    """A quantized weight and which rows of its scales each of the two parameters multiplies."""

    planes: Tensor
    scales: Tensor
    parameters: dict[str, list[int]]


@torch.no_grad()
def landscape(
    source: SourceModel,
    layer_name: str,
    tokens: Tensor,
    *,
    points: int = POINTS,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, Any]:
    """Cross entropy, nats, of the model on windows `tokens` int [W, T] with only `layer_name` quantized.

    Returns {"layer", "tokens", "factors", "full_precision", "formats"}: the factors, the loss with nothing quantized,
    and for each of FORMATS {"parameters", "losses", "rise"}. losses[i][j] is with the first parameter times factors[j]
    and the second times factors[i]; rise is its mean less its center. The model is loaded, unless it is already, and is
    left in full precision. `progress(done, total)` is told tokens. Raises InputError for a layer that
    the model does not quantize, or an even number of points.
    """
    if points < 1 or points % 2 == 0:
        raise InputError(f"points: expected an odd number, so that the middle is the unperturbed layer, got {points}")
    layer = source.linears.get(layer_name)
    if layer is None:
        raise InputError(f"{layer_name}: not quantized; expected a name such as {next(iter(source.linears))}")
    source.load(source.model, linear_dtype=dtype)
    Module.to(source.model, device)
    for other in source.linears.values():
        other.quantized = False
    stored, layer.format = layer.format, _free_format(layer.format)
    total, done = (1 + points**2 * len(FORMATS)) * tokens.numel(), 0

    def loss() -> float:
        nonlocal done
        value = _loss(source, tokens, device, dtype)
        done += tokens.numel()
        progress(done, total)
        return value

    factors = torch.linspace(1 - REACH, 1 + REACH, points).tolist() if points > 1 else [1.0]
    full, formats = loss(), {}
    for name, fitted in zip(FORMATS, _fits(layer), strict=True):
        layer.set_planes(fitted.planes)
        layer.quantized = True
        first, second = fitted.parameters.values()
        losses = [[0.0] * points for _ in factors]
        for j, i in product(range(points), repeat=2):
            scales = fitted.scales.clone()
            scales[first] *= factors[i]
            scales[second] *= factors[j]
            layer.set_scales(scales)
            losses[j][i] = loss()
        rise = sum(map(sum, losses)) / points**2 - losses[points // 2][points // 2]
        formats[name] = {"parameters": list(fitted.parameters), "losses": losses, "rise": rise}
    layer.quantized, layer.format = False, stored
    return {
        "layer": layer_name,
        "tokens": tokens.numel(),
        "factors": factors,
        "full_precision": full,
        "formats": formats,
    }


def _loss(source: SourceModel, tokens: Tensor, device: str, dtype: torch.dtype) -> float:
    """Mean cross entropy over all tokens that follow another."""
    total = 0.0
    for row in tokens:
        window = row.to(device, torch.int64)
        with autocast(device, dtype):
            logits = source.model(input_ids=window[None], use_cache=False).logits[0, :-1]
        total += functional.cross_entropy(logits.float(), window[1:]).item()
    return total / len(tokens)


def _free_format(plane_format: PlaneFormat) -> PlaneFormat:
    """The format in which the three are told apart by their scales alone; groups are those of `plane_format`."""
    return PlaneFormat(2, max(plane_format.group_size, OP.limits["group_multiple"]), offset=True)


def _fits(layer: QuantLinear) -> list[_FittedWeight]:
    """The layer's weight in each of FORMATS."""
    weight, size = layer.full_weight, layer.format.group_size
    binary = closed_form(weight, PlaneFormat(1, size, offset=True), layer.name)
    fdb = closed_form(weight, PlaneFormat(2, size, offset=False), layer.name)
    planes, scales = _uniform(weight, size)
    return [
        _FittedWeight(binary.planes, binary.scales, {"step": [0], "offset": [1]}),
        _FittedWeight(planes, scales, {"step": [0, 1], "zero": [2]}),
        _FittedWeight(fdb.planes, fdb.scales, {"a1": [0], "a2": [1]}),
    ]


def _uniform(weight: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
    """Planes uint8 [2, N, Kp/8] and scales [3, N, groups] with four equally spaced levels for each group.

    Step and zero are the better of two fits, from a Gaussian's best grid and from the range of the group.
    """
    values, inside = grouped(weight, group_size), grouped(torch.ones_like(weight), group_size)
    mean = values.sum(2, keepdim=True) / inside.sum(2, keepdim=True)
    deviation = ((values - mean).square().mul(inside).sum(2, keepdim=True) / inside.sum(2, keepdim=True)).sqrt()
    low, high = torch.where(inside > 0, values, mean).aminmax(dim=2, keepdim=True)
    step = GAUSSIAN_STEP * deviation
    fits = [
        _line(values, inside, step, mean - MAX_CODE / 2 * step),
        _line(values, inside, (high - low) / MAX_CODE, low),
    ]
    first, second = (_codes(values, *fit).mul(fit[0]).add(fit[1]).sub(values).square().mul(inside) for fit in fits)
    better = first.sum(2, keepdim=True) <= second.sum(2, keepdim=True)
    step, zero = (torch.where(better, one, other).half().float() for one, other in zip(*fits, strict=True))
    codes = _codes(values, step, zero).flatten(1)[:, : weight.shape[1]].to(torch.uint8)
    return pack(codes, 2, group_size), torch.cat([step, 2 * step, zero], 2).movedim(2, 0)


def _codes(values: Tensor, step: Tensor, zero: Tensor) -> Tensor:
    """The nearest of the four levels for each of `values` [N, groups, G], as 0. to 3."""
    return ((values - zero) / step.clamp_min(MIN_STEP)).round().clamp(0, MAX_CODE)


def _line(values: Tensor, inside: Tensor, step: Tensor, zero: Tensor) -> tuple[Tensor, Tensor]:
    """A better step and zero [N, groups, 1] for `values` [N, groups, G], of which those count that are `inside`.

    By turns each value takes its nearest level, and step and zero become the line of least squares through codes and
    values.
    """
    count = inside.sum(2, keepdim=True)
    mean = (values * inside).sum(2, keepdim=True) / count
    for _ in range(ROUNDS):
        codes = _codes(values, step, zero)
        middle = (codes * inside).sum(2, keepdim=True) / count
        spread = (codes - middle) * inside
        variance = spread.square().sum(2, keepdim=True)
        slope = (spread * (values - mean)).sum(2, keepdim=True) / variance
        step = torch.where(variance > 0, slope, step)
        zero = mean - step * middle
    return step, zero
