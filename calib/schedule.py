"""Values that change over the steps of a training run.

The learning rate: linear warm-up, then half a cosine down to a twentieth. The probability that a block of the teacher
is the student's: a straight line, down to 0 or up from it.
"""

import math

__all__ = ["learning_rate", "swap_probability"]

LAST = 0.05  # of the highest rate, at the last step


def learning_rate(step: int, steps: int, warmup: int = 0) -> float:
    """The factor of the rate at `step` (0 .. steps - 1): (step + 1) / warmup while step < warmup, then 1 to LAST."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - 1 - warmup)
    return LAST + (1 - LAST) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def swap_probability(step: int, steps: int, highest: float, schedule: str) -> float:
    """The probability at `step` (0 .. steps - 1): `highest` to 0 where `schedule` is "falling", else 0 to `highest`."""
    done = step / max(1, steps - 1)
    return highest * (1 - done if schedule == "falling" else done)
