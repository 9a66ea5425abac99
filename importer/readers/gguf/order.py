"""Rows and columns of stored tensors in the order of transformers, and tensors that are one module there."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dualbinary import InputError
from importer.model import Numbers, PackedWeight, PlainTensor

__all__ = ["Order", "joined"]

Index = npt.NDArray[np.intp] | None


@dataclass(frozen=True)
class Order:
    """Where rows and columns of transformers are stored; None where they are as there."""

    rows: Index
    columns: Index

    def of_values(self, values: np.ndarray) -> np.ndarray:
        """Plain numbers in the order of transformers."""
        values = values if self.rows is None else values[self.rows]
        return values if self.columns is None else values[..., self.columns]

    def of_numbers(self, numbers: Numbers) -> Numbers:
        """Integers with their steps in the order of transformers.

        Columns move with their groups. Where groups do not move as a whole, columns stay and tell their inputs.
        """
        if self.rows is not None:
            numbers = replace(
                numbers,
                q=numbers.q[self.rows],
                step=numbers.step[self.rows],
                offset=None if numbers.offset is None else numbers.offset[self.rows],
            )
        if self.columns is None:
            return numbers
        K, groups = numbers.q.shape[1], numbers.step.shape[1]
        size = K // groups
        starts = self.columns[::size] // size
        if not np.array_equal(self.columns, (starts[:, None] * size + np.arange(size)).reshape(-1)):
            return replace(numbers, order=np.argsort(self.columns).astype(np.int32))
        return replace(
            numbers,
            q=numbers.q[:, self.columns],
            step=numbers.step[:, starts],
            offset=None if numbers.offset is None else numbers.offset[:, starts],
        )


def joined(name: str, parts: Sequence[Any]) -> Any:
    """The weight or tensor `name` whose rows are those of `parts`, PackedWeight, InexactWeight or PlainTensor.

    Raises InputError where they are of several types.
    """
    first, *others = parts
    if not others:
        return first
    kinds = [part.dtype.name if isinstance(part, PlainTensor) else part.kind for part in parts]
    if len(set(kinds)) > 1:
        raise InputError(
            f"{name}: one weight in transformers, stored here as tensors of types {', '.join(kinds)}; expected one type"
        )
    if isinstance(first, PlainTensor):
        shape = (sum(part.shape[0] for part in parts), *first.shape[1:])
        return replace(first, shape=shape, read=lambda: np.concatenate([part.read() for part in parts]))
    N = sum(part.N for part in parts)
    if isinstance(first, PackedWeight):
        return replace(first, N=N, read=lambda: _numbers_of(parts))
    return replace(first, N=N, read=first.read and (lambda: np.concatenate([part.read() for part in parts])))


def _numbers_of(parts: Sequence[Any]) -> Numbers:
    numbers = [part.read() for part in parts]
    offsets = [each.offset for each in numbers if each.offset is not None]
    return replace(
        numbers[0],
        q=np.concatenate([each.q for each in numbers]),
        step=np.concatenate([each.step for each in numbers]),
        offset=np.concatenate(offsets) if offsets else None,
        rounding=max(each.rounding for each in numbers),
    )
