"""QuantLinear: a linear layer with two weights, the full-precision one and the quantized one.

Teacher and student are one model: everything that is not quantized exists once, and `full_precision(model)` decides
which weight a layer multiplies with. The weight of the quantized layer comes either from latents (they decide the
planes) or from fixed planes:

    stage                  latent   planes   trained
    block reconstruction   yes                latent and scales
    distillation           (yes)    yes       scales, and latents where the configuration says so
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from calib.quantizer import dequantize, nearest, pack, quantize
from dualbinary import OP, InputError, padded_k
from dualbinary.checkpoint import PER_CHANNEL

__all__ = ["Format", "QuantLinear", "full_precision", "quant_linears"]

FLOAT16_DIGITS = 11  # bits of a float16's significand
FLOAT16_STEP = 2.0**-24  # between the smallest float16 numbers


@dataclass(frozen=True)
class Format:
    """What a quantized weight is made of: P planes, groups of G inputs, and perhaps an offset for each group.

    Training moves what is free of the scales. That is all of them, or, where the format is symmetric (QBB), the P
    factors a of bases in {-1, 1}: then scales[p] = 2 a[p] and the offset is minus the sum of a, so that every level has
    its negative. `trained` and `stored` go from one to the other; this is the only place that knows how.
    """

    planes: int = 2
    group_size: int = 64
    offset: bool = False
    symmetric: bool = False

    @property
    def rows(self) -> int:
        """C, the number of scales of a group."""
        return self.planes + self.offset

    @property
    def method(self) -> str:
        """Whose form it is, as a checkpoint says it."""
        return "qbb" if self.symmetric else "fdb"

    @property
    def plain(self) -> "Format":
        """The same for whoever does not train: every scale by itself."""
        return replace(self, symmetric=False)

    def for_inputs(self, K: int) -> "Format":
        """The format of a layer of K inputs, in which a group a row is a group of K, rounded up as planes are."""
        if self.group_size != PER_CHANNEL:
            return self
        return replace(self, group_size=padded_k(K, OP.limits["group_multiple"]))

    def groups(self, K: int) -> int:
        """The groups of one output with K inputs."""
        return -(-K // self.for_inputs(K).group_size)

    def row_bits(self, K: int, scale_bits: int = 16) -> int:
        """Stored bits of one output with K inputs, padding and scales included."""
        size, groups = self.for_inputs(K).group_size, self.groups(K)
        return groups * (size * self.planes + self.rows * scale_bits)

    def trained(self, scales: Tensor) -> Tensor:
        """What is free of `scales` [C, ...]. Raises InputError where they are not exactly of this format."""
        if self.symmetric and not torch.equal(scales[: self.planes].sum(0) / 2, -scales[self.planes]):
            raise InputError("scales: the offset is not minus half the sum of the others, expected of method qbb")
        return self.free(scales)

    def free(self, scales: Tensor) -> Tensor:
        """The same without a look at the rest: after arithmetic, which rounds, it is true only nearly."""
        return scales[: self.planes] / 2 if self.symmetric else scales

    def stored(self, trained: Tensor) -> Tensor:
        """The scales [C, ...] that belong to what is free of them; differentiable."""
        return torch.cat([2 * trained, -trained.sum(0, keepdim=True)]) if self.symmetric else trained

    def rounded(self, trained: Tensor) -> Tensor:
        """`trained` moved to where float16 holds all of `stored`; what is there already stays.

        Symmetric: to multiples of the step that float16 has just below the sum of their sizes. Then the offset is exact
        as well, and the constraint holds to the last bit; a factor moves by about 2^-11 of the sum at most.
        """
        if not self.symmetric:
            return trained.half().float()
        step = _float16_step(trained.abs().sum(0))
        moved = (trained / step).round() * step
        step = torch.maximum(step, _float16_step(moved.abs().sum(0)))  # rounding up may have passed a power of two
        return (trained / step).round() * step


def _float16_step(size: Tensor) -> Tensor:
    """The distance of float16 numbers just below `size`."""
    mantissa, exponent = size.frexp()
    exponent = exponent - (mantissa == 0.5).int() - FLOAT16_DIGITS  # a power of two belongs to the numbers below it
    return torch.ldexp(torch.ones_like(size), exponent).clamp_min(FLOAT16_STEP)


class QuantLinear(nn.Module):
    """y = x W^T + bias with W either `weight` [N, K] or its quantized form, in the dtype of autocast or of x.

    Parameters that train are float32: `scales`, what the format says is free of the scales ([C, N, groups], or
    [P, N, groups] where it is symmetric), and, where there are any, `latent` [N, K]. Without latents the planes are
    fixed: `planes` uint8 [P, N, Kp/8], layout 1. Whoever wants the scales that are stored asks for `stored_scales`.
    """

    def __init__(self, name: str, weight: Tensor, bias: Tensor | None, format_: Format) -> None:
        """`name` is the module's name in the model's files. `weight` and `bias` are kept as they are, frozen."""
        super().__init__()
        self.name = name
        self.out_features, self.in_features = weight.shape
        self.format = format_.for_inputs(self.in_features)
        self.weight = nn.Parameter(weight.detach(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        # Planes are a parameter, not a buffer: sharded training splits parameters over the processes and gives a whole
        # copy of each buffer to every one.
        self.scales: nn.Parameter
        self.latent: nn.Parameter | None
        self.planes: nn.Parameter | None
        for name_ in ("scales", "latent", "planes"):
            self.register_parameter(name_, None)
        self.quantized = False

    def set_scales(self, scales: Tensor) -> None:
        """Give the layer its scales [C, N, groups], kept as float32. Raises InputError as `Format.trained` does."""
        self.scales = nn.Parameter(self.format.trained(scales.detach().to(torch.float32)).clone())

    def set_latent(self, latent: Tensor) -> None:
        """Let `latent` [N, K] decide the planes from now on."""
        self.latent = nn.Parameter(latent.detach().to(torch.float32).clone())
        self.planes = None

    def set_planes(self, planes: Tensor) -> None:
        """Let fixed planes stand for the weight from now on."""
        self.planes = nn.Parameter(planes, requires_grad=False)
        self.latent = None

    def freeze(self) -> None:
        """Replace latents by the planes that they decide under scales as they are stored."""
        if self.latent is not None:
            self.round_scales()
            self.set_planes(self.current_planes())

    @torch.no_grad()
    def round_scales(self) -> None:
        """Round the scales to float16, the form in which they are stored."""
        self.scales.copy_(self.format.rounded(self.scales))

    @property
    def stored_scales(self) -> Tensor:
        """The scales [C, N, groups], differentiable."""
        return self.format.stored(self.scales)

    @torch.no_grad()
    def current_planes(self) -> Tensor:
        """The planes uint8 [P, N, Kp/8] of this moment."""
        if self.latent is None:
            assert self.planes is not None
            return self.planes.detach()
        size, planes = self.format.group_size, self.format.planes
        return pack(nearest(self.latent, self.stored_scales, planes, size), planes, size)

    def quantized_weight(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """W [N, K] of the student, differentiable."""
        size = self.format.group_size
        if self.latent is None:
            assert self.planes is not None
            return dequantize(self.planes, self.stored_scales, self.in_features, size, dtype)
        return quantize(self.latent, self.stored_scales, self.format.planes, size, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply x [..., K]."""
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        weight = self.quantized_weight(dtype) if self.quantized else self.weight.to(dtype)
        return functional.linear(x.to(dtype), weight, None if self.bias is None else self.bias.to(dtype))

    def extra_repr(self) -> str:
        """Size and format, for people who print the model."""
        return f"{self.in_features} -> {self.out_features}, {self.format}, quantized={self.quantized}"


def quant_linears(model: nn.Module) -> list[QuantLinear]:
    """All quantized layers of a model, in its order."""
    return [module for module in model.modules() if isinstance(module, QuantLinear)]


@contextmanager
def full_precision(model: nn.Module) -> Iterator[None]:
    """Within: `model` is the teacher. After: every layer is what it was."""
    layers = quant_linears(model)
    before = [layer.quantized for layer in layers]
    for layer in layers:
        layer.quantized = False
    try:
        yield
    finally:
        for layer, state in zip(layers, before, strict=True):
            layer.quantized = state
