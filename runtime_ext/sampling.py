"""Choosing the next token from logits."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from dualbinary import InputError

__all__ = ["Sampler"]


@dataclass
class Sampler:
    """Greedy at temperature 0; else a draw from softmax(logits / temperature), cut to the top k and the top p.

    `top_k` keeps the k most likely tokens (0: all). `top_p` keeps the smallest set of most likely tokens whose
    probabilities, after the cut to k, sum to at least p. Equal seeds draw equal tokens from equal logits.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    _random: np.random.Generator = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Raise InputError for values without a meaning."""
        if not 0 <= self.temperature < float("inf"):
            raise InputError(f"temperature must be 0 (greedy) or more, got {self.temperature}")
        if self.top_k < 0:
            raise InputError(f"top-k must be 0 (all tokens) or more, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top-p must be above 0 and at most 1, got {self.top_p}")
        if self.temperature == 0 and (self.top_k or self.top_p < 1):
            raise InputError("top-k and top-p need a temperature above 0: without one the most likely token is taken")
        self._random = np.random.default_rng(self.seed)

    def __call__(self, logits: npt.NDArray[np.float32]) -> int:
        """The next token for logits [vocabulary]."""
        if self.temperature == 0:
            return int(logits.argmax())
        order = np.argsort(-logits, kind="stable")  # most likely first
        if self.top_k:
            order = order[: self.top_k]
        scaled = logits[order].astype(np.float64) / self.temperature
        probabilities = np.exp(scaled - scaled[0])
        probabilities /= probabilities.sum()
        # A token stays while those before it sum to less than p; the first one always does.
        before = np.cumsum(probabilities) - probabilities
        kept = before < self.top_p
        probabilities = probabilities[kept] / probabilities[kept].sum()
        return int(order[kept][self._random.choice(len(probabilities), p=probabilities)])
