"""Choosing the next token from logits."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from dualbinary import DualBinaryError
from dualbinary.cli.options import check_options, option
from dualbinary.errors import OptionError

__all__ = ["Sampler"]


@dataclass
class Sampler:
    """The most likely token at temperature 0; else a draw from softmax(logits / temperature), cut to top k and top p.

    `top_p` looks at the probabilities after the cut to k. Equal seeds draw equal tokens from equal logits.
    """

    temperature: float = option(0.0, help="0: the most likely token", minimum=0, metavar="T", group="sampling")
    top_k: int = option(0, help="draw among the K most likely; 0: all", minimum=0, metavar="K")
    top_p: float = option(1.0, help="draw among the most likely that sum to P", above=0, maximum=1, metavar="P")
    seed: int | None = option(None, help="make the draws repeatable", minimum=0, metavar="S")
    _random: np.random.Generator = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Raise OptionError for values without a meaning."""
        check_options(self)
        if self.temperature == 0 and (self.top_k or self.top_p < 1):
            raise OptionError("temperature", "above 0 with {top_k} or {top_p}", self.temperature)
        self._random = np.random.default_rng(self.seed)

    def __call__(self, logits: npt.NDArray[np.float32]) -> int:
        """The next token for logits [vocabulary].

        Raises DualBinaryError where the largest is no number: there is nothing to choose by. Smaller ones may be -inf,
        as in a model that rules words out.
        """
        if not np.isfinite(largest := logits.max()):
            raise DualBinaryError(
                f"the logits are not finite (the largest is {largest}), so no token can be chosen; activations beyond "
                "65504 overflow in float16, which an export with --dtype fp32 avoids, else the weights are not finite"
            )
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
