"""What measuring a budget takes, for plans."""

from calib.budget.plan import WINDOWS
from calib.budget.trial import TOKENS

__all__ = ["measuring_seconds"]

UNITS = 4  # of a block
PASSES = 6  # of a token of the windows: gradients take four, inputs and their groups two
FIT_SECONDS = 3e-7  # of a weight: the fits of some rows to all formats, and of all to that of the trial


def measuring_seconds(weights: int, blocks: int, length: int, token: float, loss: float) -> tuple[float, int]:
    """Seconds and tokens; `token` seconds pass a token through all blocks, `loss` compares its logits with others."""
    measured, tried = WINDOWS * length, UNITS * blocks * min(TOKENS, length)
    return (PASSES * measured + tried) * token + (measured + tried) * loss + weights * FIT_SECONDS, measured + tried
