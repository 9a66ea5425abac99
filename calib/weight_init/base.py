"""The interface of weight initializations, and their result. Settings are read without torch, which takes seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pydantic import Field

from calib.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

    from dualbinary.contract.weight import PlaneFormat

__all__ = ["InitSettings", "InitialWeight", "WeightInit"]


class InitSettings(Settings):
    """Settings that a weight initialization may take."""

    refits: int = Field(default=2, ge=0, description="rounds of new scales for each group (error-feedback)")
    polishes: int = Field(default=1, ge=0, description="coordinate descents in each round (error-feedback)")
    damping: float = Field(default=0.01, gt=0, lt=1, description="share of the mean added to the hessian's diagonal")


@dataclass(frozen=True)
class InitialWeight:
    """The first planes and scales of one layer.

    Attributes:
        planes: uint8 [P, N, Kp/8], layout plain, with the zero points of groups behind where groups have some.
        scales: float32 [C, N, groups] whose values the type of the format holds.
        latent: float32 [N, K], from which training moves on; nearest to the levels that `planes` say.
    """

    planes: Tensor
    scales: Tensor
    latent: Tensor

    def rows(self, begin: int, end: int) -> InitialWeight:
        """Outputs `begin` to `end` alone."""
        part = slice(begin, end)
        return InitialWeight(self.planes[:, part].clone(), self.scales[:, part].clone(), self.latent[part].clone())


class WeightInit(Protocol):
    """A weight initialization, ready to run."""

    def __call__(
        self, weight: Tensor, hessian: Tensor | None, plane_format: PlaneFormat, name: str, /
    ) -> InitialWeight:
        """Initialize `weight` [N, K], float32.

        `hessian` [K, K] is E[x x^T] of the layer's inputs; None where none were recorded. The group size is
        already resolved, not PER_CHANNEL. Raises InputError, naming `name`.
        """
        ...
