"""QuantLinear: a linear layer with two weights, the full-precision one and the quantized one.

Teacher and student are one model: everything that is not quantized exists once, and `full_precision(model)` decides
which weight a layer multiplies with. Where the layer has a rotation, its quantized weight stands for the full-precision
one in the rotated basis, and its inputs are rotated first. The quantized weight comes either from latents (they decide
the planes) or from fixed planes:

    stage                  latent   planes   trained
    block reconstruction   yes                latent and scales
    distillation           (yes)    yes       scales, and latents where the configuration says so
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from calib.even_quantizer import without_zeros
from calib.rotation import InputRotation
from calib.scale_parameters import checked_parameters, round_parameters, to_scales
from calib.student_weight import planes_of, weight_of_latent, weight_of_planes
from dualbinary.contract.rotation import Rotation
from dualbinary.contract.weight import PlaneFormat

__all__ = ["QUANTIZED", "QuantLinear", "full_precision", "quant_linears"]

QUANTIZED = ("scales", "latent", "planes", "zeros")
"""Names of the parameters that make the quantized weight."""


class QuantLinear(nn.Module):
    """y = x W^T + bias with `weight` [N, K], or R x and the quantized form of W R^T; in the dtype of autocast or of x.

    R is `rotation` (rotation.py), one where that is None.

    Parameters that train are float32: `scales`, the parameters of its scales (scale_parameters.py; [C, N, groups], or
    [P, N, groups] with symmetric levels), and, where there are any, `latent` [N, K]. Without latents the planes are
    fixed: `planes` uint8 [P, N, Kp/8], layout plain. Zero points of groups never train; beside latents they are
    `zeros` uint8 [N, groups], else behind the planes. `stored_scales` gives the scales that are stored.
    """

    def __init__(self, name: str, weight: Tensor, bias: Tensor | None, plane_format: PlaneFormat) -> None:
        """`name` is the module's name in the model's files. `weight` and `bias` are kept as they are, frozen."""
        super().__init__()
        self.name = name
        self.out_features, self.in_features = weight.shape
        self.format = plane_format.for_inputs(self.in_features)
        self.weight = nn.Parameter(weight.detach(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        # Planes are a parameter, not a buffer: sharded training splits parameters over the processes and gives a whole
        # copy of each buffer to every one.
        self.scales: nn.Parameter
        self.latent: nn.Parameter | None
        self.planes: nn.Parameter | None
        self.zeros: nn.Parameter | None
        for name_ in QUANTIZED:
            self.register_parameter(name_, None)
        self.rotation: InputRotation | None = None
        self.quantized = False

    def rotate(self, x: Tensor) -> Tensor:
        """Values [.., K] that the layer reads, or rows of a weight, in the basis of its quantized weight."""
        return x if self.rotation is None else self.rotation(x)

    @property
    def stored_rotation(self) -> Rotation | None:
        """The rotation as files have it."""
        return None if self.rotation is None else self.rotation.stored

    @property
    def full_weight(self) -> Tensor:
        """The weight float32 [N, K] that the quantized one stands for, in its basis."""
        return self.rotate(self.weight.detach().float())

    def set_scales(self, scales: Tensor) -> None:
        """Give the layer its scales [C, N, groups], kept as float32. Raises InputError as `checked_parameters` does."""
        self.scales = nn.Parameter(checked_parameters(self.format, scales.detach().to(torch.float32)).clone())

    def set_latent(self, latent: Tensor) -> None:
        """Let `latent` [N, K] decide the planes from now on; zero points stay those of the planes that it had."""
        if self.format.node_levels.group_zeros and self.planes is not None:
            size = self.format.group_size
            _, zeros = without_zeros(self.planes.detach(), self.format.node_levels, self.in_features, size)
            self.zeros = None if zeros is None else nn.Parameter(zeros, requires_grad=False)
        self.latent = nn.Parameter(latent.detach().to(torch.float32).clone())
        self.planes = None

    def set_planes(self, planes: Tensor) -> None:
        """Let fixed planes stand for the weight from now on."""
        self.planes = nn.Parameter(planes, requires_grad=False)
        self.latent = self.zeros = None

    def set_quantized(self, planes: Tensor, scales: Tensor) -> None:
        """Multiply with fixed planes and scales [C, N, groups] from now on. Raises InputError as `set_scales` does."""
        self.set_scales(scales)
        self.set_planes(planes)
        self.quantized = True

    def freeze(self) -> None:
        """Replace latents by the planes that they decide under scales as they are stored."""
        if self.latent is not None:
            self.round_scales()
            self.set_planes(self.current_planes())

    @torch.no_grad()
    def round_scales(self) -> None:
        """Round the scales to the type in which they are stored."""
        self.scales.copy_(round_parameters(self.format, self.scales))

    @property
    def stored_scales(self) -> Tensor:
        """The scales [C, N, groups], differentiable."""
        return to_scales(self.format, self.scales)

    @torch.no_grad()
    def current_planes(self) -> Tensor:
        """The planes uint8 [P, N, Kp/8] of this moment."""
        if self.latent is None:
            assert self.planes is not None
            return self.planes.detach()
        return planes_of(self.latent, self.stored_scales, self.zeros, self.format)

    def quantized_weight(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """W [N, K] of the student, differentiable."""
        if self.latent is None:
            assert self.planes is not None
            return weight_of_planes(self.planes, self.stored_scales, self.in_features, self.format, dtype)
        return weight_of_latent(self.latent, self.stored_scales, self.zeros, self.format, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply x [..., K]."""
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        if self.quantized:
            x, weight = self.rotate(x), self.quantized_weight(dtype)
        else:
            weight = self.weight.to(dtype)
        return functional.linear(x.to(dtype), weight, None if self.bias is None else self.bias.to(dtype))

    def extra_repr(self) -> str:
        """Size and format, for people who print the model."""
        return f"{self.in_features} -> {self.out_features}, {self.format}, quantized={self.quantized}"


def quant_linears(model: nn.Module) -> list[QuantLinear]:
    """All quantized layers of a model, in its order."""
    return [module for module in model.modules() if isinstance(module, QuantLinear)]


@contextmanager
def full_precision(model: nn.Module) -> Iterator[None]:
    """Make `model` the teacher; afterwards every layer is as before."""
    layers = quant_linears(model)
    before = [layer.quantized for layer in layers]
    for layer in layers:
        layer.quantized = False
    try:
        yield
    finally:
        for layer, state in zip(layers, before, strict=True):
            layer.quantized = state
