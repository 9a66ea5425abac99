"""What a check feeds a model with: a long sequence, steps across each limit, a padded batch."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dualbinary import DualBinaryError
from dualbinary.files.model_files import TOKENIZER
from exporter.source.model_directory import ModelDirectory
from exporter.source.stored_tokenizer import stored_tokenizer
from exporter.verify.lengths import STEPS, Plan
from exporter.verify.reference import Reference

__all__ = ["Case", "cases", "expected_logits", "token_ids"]

_TEXT = (
    "The lighthouse keeper counted the ships each evening and wrote their names in a long gray book. "
    "One night he saw a light where no ship could be, and in the morning the page for that day was already full."
)
_BATCH_TOKENS = 32
_BATCH_STEPS = 3
_PADDING = 5


@dataclass(frozen=True)
class Case:
    """Rows of tokens, the first `prompt` of them fed at once and the rest one by one behind the cache.

    Attributes:
        name: what it shows.
        rows: ids of each row; the rows are of one length but for padding on the left.
        prompt: tokens of the longest row that are fed at once.
    """

    name: str
    rows: tuple[np.ndarray, ...]
    prompt: int

    @property
    def padding(self) -> tuple[int, ...]:
        """Columns of padding of each row."""
        longest = max(map(len, self.rows))
        return tuple(longest - len(row) for row in self.rows)

    @property
    def steps(self) -> int:
        """Tokens that are fed one by one."""
        return max(map(len, self.rows)) - self.prompt


def cases(ids: np.ndarray, plan: Plan) -> Iterator[Case]:
    """The cases over `ids`, as many tokens as `plan` says."""
    steps = min(STEPS, len(ids) - 1)
    yield Case(f"a prompt of {len(ids) - steps} tokens and {steps} steps", (ids,), len(ids) - steps)
    for limit in plan.reached:
        end = min(limit.tokens + STEPS // 2, len(ids))
        begin = max(end - STEPS, 1)
        yield Case(f"steps across {limit}", (ids[:end],), begin)
    # Rows that begin at other tokens, of which none goes over to other rotation factors on its way.
    length = min(len(ids) - 1, _BATCH_TOKENS, plan.restart or _BATCH_TOKENS)
    if length > _PADDING + _BATCH_STEPS:
        rows = (ids[:length], ids[1 : 1 + length - _PADDING])
        yield Case("a batch with a row that is padded on the left", rows, length - _BATCH_STEPS)


def expected_logits(model: Reference, case: Case, plan: Plan, last: bool) -> list[np.ndarray]:
    """Logits [T, V] for each row: of its prompt, or of the `last` token of that, then of each step.

    A row of a batch is to get what it gets alone. Where the rotation depends on the length, each step is a sequence.
    """
    found = []
    for row, padding in zip(case.rows, case.padding, strict=True):
        prompt = case.prompt - padding
        ends = [prompt, *range(prompt + 1, len(row) + 1)] if plan.restart is not None else [len(row)]
        first = prompt - 1 if last else 0
        parts = []
        for end in ends:
            parts.append(model.logits(row[:end], first))
            first = end
        found.append(np.concatenate(parts))
    return found


def token_ids(source: ModelDirectory, count: int, rows: int) -> np.ndarray:
    """`count` ids below `rows`: those of a fixed text, then the same in other orders.

    Where the directory has no tokenizer, or one without such ids, they are drawn at random.
    """
    rng = np.random.default_rng(0)
    ids = np.array([index for index in _text_ids(source) if index < rows], np.int64)
    if not len(ids):
        ids = rng.integers(min(4, rows - 1), rows, count)
    parts = [ids]
    while sum(map(len, parts)) < count:
        parts.append(rng.permutation(ids))
    return np.concatenate(parts)[:count]


def _text_ids(source: ModelDirectory) -> list[int]:
    path = source.directory / TOKENIZER
    if not path.is_file():
        return []
    try:
        return stored_tokenizer(path).encode(_TEXT).ids
    except Exception as error:  # the library raises bare exceptions
        raise DualBinaryError(f"{path}: cannot be read ({error})") from error
