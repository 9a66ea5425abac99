"""Figures of models on texts and tasks, and what several texts say together.

For a text of W windows of T tokens, each window read by itself, and its W (T - 1) predictions:

    nll[w]       mean of -log P[y] over window w, in nats
    perplexity   exp(mean of nll)
    ratio        perplexity / that of the full-precision model
    kl           mean of KL(Pt || P), Pt the full-precision model's distribution, in nats
    agreement    share of tokens whose most likely successor is the full-precision model's

Over several texts, of which each counts alike, perplexity and ratio have the geometric mean. So kl, which is a
logarithm like nll, has the arithmetic one, and agreement too.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["ModelFigures", "TaskFigure", "TextFigures", "exponential"]


@dataclass(frozen=True)
class TextFigures:
    """Figures of one model on one text; ratio, kl and agreement are None where there is no model to compare with."""

    name: str
    nll: tuple[float, ...]
    ratio: float | None = None
    kl: float | None = None
    agreement: float | None = None

    @property
    def perplexity(self) -> float:
        """See the module's docstring."""
        return exponential(_mean(self.nll))


@dataclass(frozen=True)
class TaskFigure:
    """One metric of one task: lm-evaluation-harness's names, its value and its standard error, if there is one.

    `count` is the number of questions, `shots` of examples before each; None where the harness does not say.
    """

    task: str
    metric: str
    value: float
    stderr: float | None
    count: int | None
    shots: int | None


@dataclass(frozen=True)
class ModelFigures:
    """All figures of one model; `kind` is "full precision", "checkpoint", "directory" or "onnx"."""

    name: str
    kind: str
    texts: tuple[TextFigures, ...] = ()
    tasks: tuple[TaskFigure, ...] = ()

    def over_texts(self) -> dict[str, float | None]:
        """Perplexity, ratio, kl and agreement over all texts, of which there is one at least."""
        perplexity = exponential(_mean([_mean(text.nll) for text in self.texts]))
        logs = _known([text.ratio and math.log(text.ratio) for text in self.texts])
        return {
            "perplexity": perplexity,
            "ratio": None if logs is None else exponential(logs),
            "kl": _known([text.kl for text in self.texts]),
            "agreement": _known([text.agreement for text in self.texts]),
        }

    def to_json(self) -> dict[str, Any]:
        """The object of one model; its keys are those of docs/howto/evaluate.md. JSON has no infinity: None."""
        found: dict[str, Any] = {"name": self.name, "kind": self.kind}
        if self.texts:
            found |= {key: _finite(value) for key, value in self.over_texts().items()}
            found["nll"] = [value for text in self.texts for value in text.nll]
            found["texts"] = [
                {**asdict(text), "ratio": _finite(text.ratio), "perplexity": _finite(text.perplexity)}
                for text in self.texts
            ]
        return found | ({"tasks": [asdict(task) for task in self.tasks]} if self.tasks else {})


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _known(values: Sequence[float | None]) -> float | None:
    """The mean; None where a value is missing."""
    present = [value for value in values if value is not None]
    return _mean(present) if len(present) == len(values) else None


def exponential(value: float) -> float:
    """The power of e, infinite where no float is so large: what a model that has diverged says of a text."""
    return math.exp(value) if value < math.log(sys.float_info.max) else math.inf


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
