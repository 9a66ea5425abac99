"""What measuring a budget takes, for plans."""

from collections.abc import Sequence

from calib.budget.forms import candidates
from calib.budget.sensitivity import ROWS
from calib.budget.trial import TOKENS
from calib.data.window_counts import BUDGET_WINDOWS

__all__ = ["measuring_seconds"]

UNITS = 4  # of a block
PASSES = 6  # of a token of the windows: gradients take four, inputs and their groups two
FIT_SECONDS = 1e-7  # of a weight and a format, an estimate for an idle CPU; docs/log/calibration.md, 2026-11-30


def measuring_seconds(
    blocks: Sequence[Sequence[tuple[int, int]]], length: int, *, token: float, loss: float, initial: float, refits: int
) -> tuple[float, int]:
    """Seconds and tokens for layers [N, K] of `blocks` and windows of `length` tokens.

    `token` seconds pass a token through all blocks, `loss` compares its logits with others, and `initial` initializes
    all layers with as many `refits`, of which a trial has none.
    """
    measured, tried = BUDGET_WINDOWS * length, UNITS * len(blocks) * min(TOKENS, length)
    fitted = sum(min(ROWS, N) * K * len(candidates(K)) for block in blocks for N, K in block)
    passes = (PASSES * measured + tried) * token + (measured + tried) * loss
    return passes + fitted * FIT_SECONDS + 2 * initial / (2 + refits), measured + tried
