"""Figures of models as a table for people."""

from collections.abc import Sequence

from dualbinary.evaluation.figures import ModelFigures

__all__ = ["render"]

TEXT_HEAD = ("text", "model", "perplexity", "ratio", "KL", "same top token")
TASK_HEAD = ("task", "model", "metric", "value", "", "questions", "shots")
LEFT = {"text", "task", "model", "metric"}


def render(models: Sequence[ModelFigures]) -> str:
    """The tables of texts and tasks, whichever there are: a row for each model on each text or task.

    Columns without a value are left out. Of several texts the last rows are the means.
    """
    parts = []
    if models and models[0].texts:
        parts.append(_aligned(TEXT_HEAD, _text_rows(models)))
    if any(model.tasks for model in models):
        parts.append(_aligned(TASK_HEAD, _task_rows(models)))
    return "\n\n".join(parts)


def _text_rows(models: Sequence[ModelFigures]) -> list[list[str]]:
    names = [text.name for text in models[0].texts]
    rows = []
    for place, name in enumerate(names):
        for model in models:
            text = model.texts[place]
            rows.append([name, model.name, *_numbers(text.perplexity, text.ratio, text.kl, text.agreement)])
    if len(names) > 1:
        rows += [[f"mean of {len(names)}", model.name, *_numbers(**model.over_texts())] for model in models]
    return _without_repeats(rows)


def _numbers(perplexity: float | None, ratio: float | None, kl: float | None, agreement: float | None) -> list[str]:
    formats = ((perplexity, ".3f"), (ratio, ".4f"), (kl, ".4f"), (agreement, ".3f"))
    # A rounding error below zero is no minus.
    return ["" if value is None else format(max(value, 0.0), form) for value, form in formats]


def _task_rows(models: Sequence[ModelFigures]) -> list[list[str]]:
    keys = dict.fromkeys((task.task, task.metric) for model in models for task in model.tasks)
    rows = []
    for key in keys:
        for model in models:
            for task in model.tasks:
                if (task.task, task.metric) == key:
                    error = "" if task.stderr is None else f"± {task.stderr:.4f}"
                    counts = ["" if value is None else str(value) for value in (task.count, task.shots)]
                    rows.append([task.task, model.name, task.metric, f"{task.value:.4f}", error, *counts])
    return _without_repeats(rows)


def _without_repeats(rows: list[list[str]]) -> list[list[str]]:
    """The first column said once for all the rows that share it."""
    firsts = [row[0] for row in rows]
    return [
        ["" if place and firsts[place - 1] == firsts[place] else row[0], *row[1:]] for place, row in enumerate(rows)
    ]


def _aligned(head: Sequence[str], rows: list[list[str]]) -> str:
    kept = [column for column in range(len(head)) if any(row[column] for row in rows)]
    lines = [[line[column] for column in kept] for line in (list(head), *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(kept))]
    left = [head[column] in LEFT for column in kept]
    return "\n".join(
        "  ".join(
            f"{cell:<{width}}" if aligned else f"{cell:>{width}}"
            for cell, width, aligned in zip(line, widths, left, strict=True)
        ).rstrip()
        for line in lines
    )
