"""The interface of weight initializations, and their result."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from dualbinary.contract.weight import PlaneFormat

__all__ = ["InitialWeight", "WeightInit"]


@dataclass(frozen=True)
class InitialWeight:
    """The first planes and scales of one layer.

    Attributes:
        planes: uint8 [P, N, Kp/8], layout plain.
        scales: float32 [C, N, groups] whose values float16 holds.
        latent: float32 [N, K], from which training moves on; nearest to the levels that `planes` say.
    """

    planes: Tensor
    scales: Tensor
    latent: Tensor

    def rows(self, begin: int, end: int) -> "InitialWeight":
        """Outputs `begin` to `end` alone."""
        part = slice(begin, end)
        return InitialWeight(self.planes[:, part].clone(), self.scales[:, part].clone(), self.latent[part].clone())


class WeightInit(Protocol):
    """A weight initialization, ready to run."""

    def __call__(
        self, weight: Tensor, hessian: Tensor | None, plane_format: PlaneFormat, name: str, /
    ) -> InitialWeight:
        """Initialize `weight` [N, K], float32.

        `hessian` [K, K] is E[x x^T] of the layer's inputs; None where none were recorded. The group size is a number.
        Raises InputError, naming `name`.
        """
        ...
