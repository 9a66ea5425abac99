"""Choosing the next token from logits.

    logits  ->  penalties for tokens that are there already  ->  / temperature  ->  top k, top p, min p  ->  a draw

Repetition is divided out as transformers does it (CTRL, Keskar et al. 2019, arXiv 1909.05858, section 4.1), presence
and frequency are taken off as in the OpenAI API; min p is that of Nguyen et al. 2024, arXiv 2407.01082.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from dualbinary import DualBinaryError
from dualbinary.cli.options import check_options, option
from dualbinary.errors import OptionError

__all__ = ["Sampler"]

# To sort a vocabulary takes milliseconds, as long as a step of a small model; most draws fall among the first of them.
FEW = 4096


@dataclass
class Sampler:
    """The most likely token at temperature 0; else a draw from softmax(logits / temperature), cut to the most likely.

    `top_p` looks at the probabilities after the cut to k, and `min_p` cuts what both leave. Equal seeds draw equal
    tokens from equal logits.

    One sampler serves one text at a time: penalties count what it returned since `start`, and nothing else may be drawn
    from it in between.
    """

    temperature: float = option(0.0, help="0: the most likely token", minimum=0, metavar="T", group="sampling")
    top_k: int = option(0, help="draw among the K most likely; 0: all", minimum=0, metavar="K")
    top_p: float = option(1.0, help="draw among the most likely that sum to P", above=0, maximum=1, metavar="P")
    min_p: float = option(
        0.0, help="draw among those at least P times as likely as the likeliest", minimum=0, maximum=1, metavar="P"
    )
    repetition_penalty: float = option(
        1.0,
        help="make tokens of prompt and answer less likely, logits by this factor; 1: none",
        minimum=0.1,
        maximum=10,
        metavar="F",
    )
    presence_penalty: float = option(
        0.0, help="taken off the logit of each token of the answer", minimum=-2, maximum=2, metavar="X"
    )
    frequency_penalty: float = option(
        0.0, help="the same, for each time that it is there", minimum=-2, maximum=2, metavar="X"
    )
    seed: int | None = option(None, help="make the draws repeatable", minimum=0, metavar="S")
    _random: np.random.Generator = field(init=False, repr=False)
    _there: npt.NDArray[np.int64] = field(init=False, repr=False)  # tokens of the text, each once, if any counts
    _drawn: Counter[int] = field(init=False, repr=False, default_factory=Counter)

    def __post_init__(self) -> None:
        """Raise OptionError for values without a meaning."""
        check_options(self)
        if self.temperature == 0 and (self.top_k or self.top_p < 1 or self.min_p):
            raise OptionError("temperature", "above 0 with {top_k}, {top_p} or {min_p}", self.temperature)
        self._random = np.random.default_rng(self.seed)
        self.start()

    def start(self, prompt: Iterable[int] = ()) -> None:
        """Begin another text, which continues `prompt`: forget what was drawn before. The random numbers go on."""
        self._there = np.unique(np.fromiter(prompt if self._penalizes else (), np.int64))
        self._drawn.clear()

    def __call__(self, logits: npt.NDArray[np.float32]) -> int:
        """The next token for logits [vocabulary], which stay as they are.

        Raises DualBinaryError where the largest is no number: there is nothing to choose by. Smaller ones may be -inf,
        as in a model that rules words out.
        """
        logits = self._penalized(logits)
        if not np.isfinite(largest := logits.max()):
            raise DualBinaryError(
                f"the logits are not finite (the largest is {largest}), so no token can be chosen; activations beyond "
                "65504 overflow in float16, which an export with --dtype fp32 avoids, else the weights are not finite"
            )
        token = int(logits.argmax()) if self.temperature == 0 else self._sampled(logits, largest)
        if self._penalizes:
            if token not in self._drawn and not (self._there == token).any():
                self._there = np.append(self._there, token)
            self._drawn[token] += 1
        return token

    @property
    def _penalizes(self) -> bool:
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (1, 0, 0)

    def _penalized(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        if not self._penalizes:
            return logits
        logits = logits.copy()
        there = self._there[self._there < len(logits)]  # a draft may have fewer tokens
        found, factor = logits[there], np.float32(self.repetition_penalty)
        logits[there] = np.where(found > 0, found / factor, found * factor)
        tokens = np.fromiter(self._drawn, np.int64)
        counts = np.fromiter(self._drawn.values(), np.float32)
        off = np.float32(self.presence_penalty) + np.float32(self.frequency_penalty) * counts
        inside = tokens < len(logits)
        logits[tokens[inside]] -= off[inside]
        return logits

    def _sampled(self, logits: npt.NDArray[np.float32], largest: np.float32) -> int:
        weights = np.exp((logits.astype(np.float64) - largest) / self.temperature)
        chance = self._random.random()
        token = self._draw(logits, weights, chance, min(FEW, len(logits)))
        if token is None:
            token = self._draw(logits, weights, chance, len(logits))
        assert token is not None  # among all of them there is one
        return token

    def _draw(
        self, logits: npt.NDArray[np.float32], weights: npt.NDArray[np.float64], chance: float, count: int
    ) -> int | None:
        """The token that `chance`, 0 to 1, picks; None where it may not be among the `count` most likely ones."""
        allowed = min(self.top_k or len(logits), len(logits))
        order = _most_likely(logits, min(count, allowed))
        sums = np.cumsum(weights[order])
        if len(order) == allowed:
            total = sums[-1]
        elif self.top_k:
            return None
        else:
            total = weights.sum()
        # A token stays while those before it sum to less than p of the total; the first one always does.
        kept = int(np.searchsorted(sums, self.top_p * total, side="left")) + 1
        if kept <= len(sums):
            total = sums[kept - 1]
        elif self.top_p < 1 and len(order) < allowed:
            return None
        if self.min_p:
            likely = int(np.count_nonzero(weights[order] >= self.min_p))  # that of the likeliest is 1
            if likely == len(order) < min(allowed, kept):
                return None
            if likely < kept:
                kept, total = likely, sums[likely - 1]
        place = int(np.searchsorted(sums, chance * total, side="right"))
        if place < len(order):
            return int(order[place])
        return int(order[-1]) if len(order) == allowed else None  # rounding may leave the last sum short


def _most_likely(logits: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.intp]:
    """The `count` largest, the first of equal ones before the others; far faster than to sort them all."""
    if count < len(logits):
        least = np.partition(logits, len(logits) - count)[len(logits) - count]
        some = np.flatnonzero(logits >= least)
    else:
        some = np.arange(len(logits))
    return some[np.argsort(-logits[some], kind="stable")][:count]
