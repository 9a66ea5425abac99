"""What every way to start gives back."""

from dataclasses import dataclass

from torch import Tensor

__all__ = ["Initialized"]


@dataclass(frozen=True)
class Initialized:
    """A start for one layer.

    Attributes:
        planes: uint8 [P, N, Kp/8], layout 1.
        scales: float32 [C, N, groups] whose values float16 holds.
        latent: float32 [N, K], from which training moves on; nearest to the levels that `planes` say.
    """

    planes: Tensor
    scales: Tensor
    latent: Tensor

    def rows(self, begin: int, end: int) -> "Initialized":
        """Outputs `begin` to `end` alone."""
        part = slice(begin, end)
        return Initialized(self.planes[:, part].clone(), self.scales[:, part].clone(), self.latent[part].clone())
