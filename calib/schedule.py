"""Learning rate over the steps of a training run: linear warm-up, then half a cosine down to a twentieth."""

import math

__all__ = ["learning_rate"]

LAST = 0.05  # of the highest rate, at the last step


def learning_rate(step: int, steps: int, warmup: int = 0) -> float:
    """The factor of the rate at `step` (0 .. steps - 1): (step + 1) / warmup while step < warmup, then 1 to LAST."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - 1 - warmup)
    return LAST + (1 - LAST) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
