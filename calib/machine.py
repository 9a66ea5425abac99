"""The speed of a device, as plans compute with it."""

from dataclasses import dataclass

import torch

from calib.plan_parts import seconds_of

__all__ = ["Machine"]

MATMUL, COPY, TRIES = 1024, 1 << 26, 7  # sizes of the two measurements


@dataclass(frozen=True)
class Machine:
    """Speed of a device: operations and bytes a second."""

    name: str
    flops: float
    bandwidth: float

    @classmethod
    def measure(cls, device: str, dtype: torch.dtype) -> "Machine":
        """Time a matrix product in `dtype` and a copy on `device`; half a second."""
        a = torch.randn(MATMUL, MATMUL, device=device).to(dtype)
        source, target = torch.zeros(2, COPY // 4, device=device)
        return cls(
            f"{device}, {str(dtype).removeprefix('torch.')}",
            2 * MATMUL**3 / seconds_of(lambda: a @ a, device, TRIES),
            2 * COPY / seconds_of(lambda: target.copy_(source), device, TRIES),
        )
