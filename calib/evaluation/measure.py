"""Figures of a full-precision model and of subjects on the same windows; dualbinary.evaluation.figures defines them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from calib.evaluation.subjects import Bench, Logits, Subject
from calib.evaluation.teacher import HiddenStates
from calib.losses import chunk_size, cross_entropy, kl_divergence
from calib.models.head import head_of
from calib.models.source import SourceModel
from dualbinary.evaluation.figures import ModelFigures, TaskFigure, TextFigures, exponential

__all__ = ["Answering", "evaluate"]

Answering = Callable[[Subject | None, Module | None], tuple[TaskFigure, ...]]
"""The tasks of a subject, or of the full-precision model where that is None, with its torch model if it has one."""


def no_tasks(subject: Subject | None, model: Module | None) -> tuple[TaskFigure, ...]:
    """There are none."""
    return ()


@dataclass
class _Run:
    """One evaluation; `full` are the full-precision model's figures by text, once they are known."""

    bench: Bench
    texts: Mapping[str, Tensor]
    states: HiddenStates
    advance: Callable[[], None]
    full: dict[str, TextFigures] = field(default_factory=dict)

    def of_teacher(self, *, kept: bool) -> tuple[TextFigures, ...]:
        """The full-precision model's, whose hidden states are `kept` for others."""
        rows = chunk_size(self.bench.vocabulary)
        for name, windows in self.texts.items():
            nll = []
            for index, row in enumerate(windows):
                window = row.to(self.bench.device, torch.int64)
                hidden = self.bench.hidden(window)
                if kept:
                    self.states.keep(name, index, hidden)
                parts = zip(hidden.split(rows), window[1:].split(rows), strict=True)
                terms = [cross_entropy(self.bench.head(part), target).double().sum() for part, target in parts]
                nll.append(float(sum(terms)) / len(hidden))
                self.advance()
            self.full[name] = TextFigures(name, tuple(nll), 1.0, 0.0, 1.0)
        return tuple(self.full.values())

    def of(self, logits: Logits) -> tuple[TextFigures, ...]:
        """A subject's."""
        return tuple(self._text(name, windows, logits) for name, windows in self.texts.items())

    def _text(self, name: str, windows: Tensor, logits: Logits) -> TextFigures:
        sums = torch.zeros(len(windows), 3, dtype=torch.float64)
        for index, row in enumerate(windows):
            window = row.to(self.bench.device, torch.int64)
            hidden, place = self.states.read(name, index).to(self.bench.device), 0
            for mine in logits(window):
                part = slice(place, place + len(mine))
                theirs, target = self.bench.head(hidden[part]), window[1:][part]
                terms = cross_entropy(mine, target), kl_divergence(theirs, mine), mine.argmax(1) == theirs.argmax(1)
                sums[index] += torch.stack([term.float().sum() for term in terms]).cpu()
                place += len(mine)
            self.advance()
        means = sums / (windows.shape[1] - 1)
        nll, kl, agreement = means.mean(0).tolist()
        full = math.fsum(self.full[name].nll) / len(windows)
        return TextFigures(name, tuple(means[:, 0].tolist()), exponential(nll - full), kl, agreement)


@torch.no_grad()
def evaluate(
    source: SourceModel,
    subjects: Sequence[Subject],
    texts: Mapping[str, Tensor],
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    answer: Answering = no_tasks,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> list[ModelFigures]:
    """Figures of the full-precision model `source`, which is loaded here, and then of each subject, in their order.

    `texts` are windows int [count, T] by name. Subjects that need other memory than the source's come last, when its
    weights are gone but for its head. `progress` is told windows done and windows in all. Raises InputError where a
    subject cannot be opened or does not fit.
    """
    total = (len(subjects) + 1) * sum(map(len, texts.values()))
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    source.load(source.model, linear_dtype=dtype)
    Module.to(source.model, device)
    head, vocabulary = head_of(source.model, device, dtype)
    bench = Bench(source, head, vocabulary, device, dtype)
    found: dict[int, ModelFigures] = {}
    config: Any = source.model.config.get_text_config()
    with HiddenStates(texts if subjects else {}, config.hidden_size, _hidden_dtype(bench)) as states:
        run = _Run(bench, texts, states, advance)
        figures = run.of_teacher(kept=bool(subjects))
        full = ModelFigures(str(source.directory), "full precision", figures, answer(None, source.model))
        for index in sorted(range(len(subjects)), key=lambda place: not subjects[place].shares):
            subject = subjects[index]
            if not subject.shares:
                source.unload(source.model)
            with subject.opened(bench) as (logits, model):
                figures = run.of(logits)
                found[index] = ModelFigures(str(subject.path), subject.kind, figures, answer(subject, model))
    return [full, *(found[index] for index in range(len(subjects)))]


def _hidden_dtype(bench: Bench) -> torch.dtype:
    """The type of the hidden states that the model gives."""
    return bench.hidden(torch.zeros(2, dtype=torch.int64, device=bench.device)).dtype
