"""How far engines agree about one model: the first token that they choose differently, and the errors of their logits.

All are fed the same tokens, those that the first engine found most likely. So until an engine would have chosen another
one it has seen what it would have seen by itself, and the first difference of two greedy texts is where they differ.

An engine that rounds activations to bytes has logits that are off by some hundredths, so a difference alone
says nothing. It is explained by rounding where the exact model's two logits are as near as the engine's are off:

    same       no difference
    tie        the exact model's logits of the two tokens are less than TIE apart
    rounding   they are at most ROUNDING deviations apart, where a deviation is the root mean square error of the logits
               of the engine that left the exact model's choice, the larger one's if both did
    error      farther apart: rounding does not explain it
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["ROUNDING", "TIE", "Deviation", "Difference", "deviation", "first_difference"]

TIE = 1e-3
ROUNDING = 5.0
"""Errors of two logits, independent and Gaussian, differ by 5 deviations of one with a probability of 4e-4."""

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Deviation:
    """How far logits [tokens, V] are from the exact ones.

    Attributes:
        rms: root mean square of the errors, without what they have in common, which changes no probability.
        relative: `rms` by the deviation of the exact logits.
        kl: mean of the divergence of the probabilities from the exact ones, in nats.
        same_top: tokens at which both have the same most likely one.
    """

    rms: float
    relative: float
    kl: float
    same_top: int


@dataclass(frozen=True)
class Difference:
    """Where two engines first choose differently.

    Attributes:
        place: tokens before it.
        tokens: the choices of both.
        gaps: how much larger the first one's logit of its token is than that of the other's token; in the logits of the
            first, of the second, and of the exact model. At least 0, at most 0, and either.
        verdict: "tie", "rounding" or "error".
    """

    place: int
    tokens: tuple[int, int]
    gaps: tuple[float, float, float]
    verdict: str


def deviation(logits: Logits, exact: Logits) -> Deviation:
    """Compare logits [tokens, V]."""
    errors = _errors(logits, exact)
    rms = float(np.sqrt(np.mean(errors**2)))
    mean, other = _log_probabilities(exact), _log_probabilities(logits)
    spread = float(np.sqrt(np.mean(_errors(exact, np.zeros_like(exact)) ** 2)))
    return Deviation(
        rms,
        rms / spread if spread else 0.0,
        float(np.mean(np.sum(np.exp(mean) * (mean - other), axis=1))),
        int(np.sum(logits.argmax(axis=1) == exact.argmax(axis=1))),
    )


def first_difference(first: Logits, second: Logits, exact: Logits) -> Difference | None:
    """Find where two engines first choose differently; None where they never do. All are [tokens, V]."""
    places = np.flatnonzero(first.argmax(axis=1) != second.argmax(axis=1))
    if not len(places):
        return None
    at = int(places[0])
    a, b = int(first[at].argmax()), int(second[at].argmax())
    gaps = tuple(float(logits[at, a]) - float(logits[at, b]) for logits in (first, second, exact))
    best = int(exact[at].argmax())
    left = [logits for logits, choice in ((first, a), (second, b)) if choice != best]
    error = max(float(np.sqrt(np.mean(_errors(logits[at : at + 1], exact[at : at + 1]) ** 2))) for logits in left)
    verdict = "tie" if abs(gaps[2]) < TIE else "rounding" if abs(gaps[2]) <= ROUNDING * error else "error"
    return Difference(at, (a, b), (gaps[0], gaps[1], gaps[2]), verdict)


def _errors(logits: Logits, exact: Logits) -> npt.NDArray[np.float64]:
    found = logits.astype(np.float64) - exact
    return found - found.mean(axis=1, keepdims=True)


def _log_probabilities(logits: Logits) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
