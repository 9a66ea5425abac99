"""Tensors that have not been read yet.

The graph builder describes how a checkpoint's tensors become a model's parameters as ordinary PyTorch code over a state
dict (rename, transpose, split a fused projection, permute rows, add one to a norm). Running that code on real weights
would hold the whole model in memory. Here it runs on `LazyTensor`s, which know their shape and remember which operation
made them; `evaluate` replays the recorded operations for one parameter at a time.

The same record has a second use: evaluated on row numbers instead of weights, it tells which rows of which stored
tensor a parameter consists of (`row_origins`). So planes of a checkpoint follow a weight through a split.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_map

from dualbinary import InputError

__all__ = ["LazyTensor", "RowOrigin", "evaluate", "lazy_tensor", "row_origins", "stored_name", "stored_names"]

Reader = Callable[[str], torch.Tensor]

_MATRIX = 2  # dimensions
_ROW, _COLUMN = -2, -1  # axes of a matrix, and of each in a list of them
# A view depends on strides, which a table of row numbers has others of than the weight: its rows share memory.
_STRIDELESS: dict[Any, Callable[..., Any]] = {torch.ops.aten.view.default: torch.ops.aten.reshape.default}


@dataclass(frozen=True)
class _Stored:
    """A leaf: the tensor called `name` in the checkpoint."""

    name: str


@dataclass(frozen=True)
class _Result:
    """Output `index` of `operation(*args, **kwargs)`; arguments may be lazy tensors."""

    operation: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    index: int


class LazyTensor(torch.Tensor):
    """A tensor with shape and dtype but without data; every operation on it is recorded, not run."""

    source: _Stored | _Result
    meta: torch.Tensor

    @staticmethod
    def __new__(cls: type["LazyTensor"], meta: torch.Tensor, source: _Stored | _Result) -> "LazyTensor":
        """Wrap `meta`, a tensor on the meta device that has shape, strides and dtype."""
        tensor = torch.Tensor._make_wrapper_subclass(
            cls, meta.shape, strides=meta.stride(), storage_offset=meta.storage_offset(), dtype=meta.dtype
        )
        tensor.meta = meta
        tensor.source = source
        return tensor

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"LazyTensor({list(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run `func` on meta tensors for its shape, and record it."""
        kwargs = kwargs or {}
        if func._schema.is_mutable:
            raise InputError(f"this model's weights are rearranged in place ({func}), which cannot be streamed")

        def on_meta(value: Any) -> Any:
            if isinstance(value, LazyTensor):
                return value.meta
            return value.to("meta") if isinstance(value, torch.Tensor) else value

        outcome = func(*tree_map(on_meta, args), **tree_map(on_meta, kwargs))
        flat, _ = tree_flatten(outcome)
        if not all(isinstance(item, torch.Tensor) for item in flat):
            raise InputError(f"this model's weights are rearranged by their values ({func}), which cannot be streamed")
        if isinstance(outcome, torch.Tensor):
            return LazyTensor(outcome, _Result(func, args, kwargs, -1))
        return [LazyTensor(item, _Result(func, args, kwargs, index)) for index, item in enumerate(outcome)]


def lazy_tensor(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> LazyTensor:
    """The stored tensor `name`, unread."""
    return LazyTensor(torch.empty(shape, dtype=dtype, device="meta"), _Stored(name))


def evaluate(tensor: torch.Tensor, read: Reader) -> torch.Tensor:
    """Replay the recorded operations of `tensor`; `read(name)` supplies the stored tensors."""
    done: dict[int, torch.Tensor] = {}  # by identity: parts of a split share the operations before it

    def real(value: Any) -> Any:
        if not isinstance(value, LazyTensor):
            return value
        if id(value) not in done:
            done[id(value)] = replay(value.source)
        return done[id(value)]

    def replay(source: _Stored | _Result) -> torch.Tensor:
        if isinstance(source, _Stored):
            return read(source.name)
        operation = _STRIDELESS.get(source.operation, source.operation)
        outcome = operation(*tree_map(real, source.args), **tree_map(real, source.kwargs))
        return outcome if source.index < 0 else outcome[source.index]

    return real(tensor)


def stored_name(tensor: torch.Tensor) -> str | None:
    """The name of the stored tensor that `tensor` is, without any operation; None for other tensors."""
    if isinstance(tensor, LazyTensor) and isinstance(tensor.source, _Stored):
        return tensor.source.name
    return None


def stored_names(tensor: torch.Tensor) -> set[str]:
    """The stored tensors that `tensor` is made of."""
    return set(_stored_shapes(tensor))


@dataclass(frozen=True)
class RowOrigin:
    """The origin, in one stored tensor, of rows of a two-dimensional parameter [N, K].

    Row n of the parameter is row `rows[n]` of the stored tensor `name`, or its column where `transposed`. A stored
    tensor of three dimensions is a list of matrices, such as those of experts, and `matrix` the number of the one.
    """

    name: str
    rows: torch.Tensor  # int64 [n]
    transposed: bool
    matrix: int = 0

    def matrix_of(self, stored: torch.Tensor) -> torch.Tensor:
        """The view of the stored tensor whose rows `rows` counts."""
        matrix = stored[self.matrix] if stored.dim() > _MATRIX else stored
        return matrix.t() if self.transposed else matrix


def row_origins(tensor: torch.Tensor, parameter: str) -> list[RowOrigin]:
    """The stored rows that the parameter [N, K] consists of, as runs in order.

    Raises InputError where it does not consist of whole stored rows (or whole columns of a transposed matrix).
    """
    owners: list[tuple[str, int]] = []  # stored tensor and number of the matrix in it

    def owner(name: str, shape: torch.Size) -> torch.Tensor:
        matrices = shape[0] if len(shape) > _MATRIX else 1
        if (name, 0) not in owners:
            owners.extend((name, matrix) for matrix in range(matrices))
        first = owners.index((name, 0))
        numbers = torch.arange(first, first + matrices, dtype=torch.int32)
        return numbers[:, None, None].expand(matrices, *shape[-_MATRIX:]).reshape(shape)

    def coordinate(axis: int) -> Callable[[str, torch.Size], torch.Tensor]:
        def number(name: str, shape: torch.Size) -> torch.Tensor:
            line = torch.arange(shape[axis], dtype=torch.int32)
            return (line[:, None] if axis == _ROW else line).expand(shape)

        return number

    stored = _stored_shapes(tensor)
    whole = all(len(shape) in (_MATRIX, _MATRIX + 1) for shape in stored.values())
    tables = []
    for value in (owner, coordinate(_ROW), coordinate(_COLUMN)) if whole else ():
        tables.append(evaluate(tensor, lambda name, value=value: value(name, stored[name])))
    origins = _runs(tables, owners) if whole else None
    if origins is not None:
        return origins
    raise InputError(
        f"{parameter}: the graph mixes the rows of {', '.join(sorted(stored))} in a way that planes cannot follow; "
        "list the module in modules_to_not_convert"
    )


def _runs(tables: list[torch.Tensor], owners: list[tuple[str, int]]) -> list[RowOrigin] | None:
    """Origins from tables of owner, row and column of each element; None where rows are mixed."""
    which, first, second = tables
    if any(table.dtype != torch.int32 for table in tables):
        return None
    inputs = torch.arange(which.shape[1], dtype=torch.int32).expand_as(which)
    for rows_table, inputs_table, transposed in ((first, second, False), (second, first, True)):
        constant = torch.equal(rows_table, rows_table[:, :1].expand_as(rows_table))
        if constant and torch.equal(inputs_table, inputs):
            rows, owner = rows_table[:, 0].long(), which[:, 0]
            boundaries = [0, *(torch.nonzero(owner.diff()).flatten() + 1).tolist(), len(owner)]
            origins = []
            for begin, end in pairwise(boundaries):
                name, matrix = owners[int(owner[begin])]
                origins.append(RowOrigin(name, rows[begin:end], transposed, matrix))
            return origins
    return None


def _stored_shapes(tensor: torch.Tensor) -> dict[str, torch.Size]:
    shapes: dict[str, torch.Size] = {}
    seen: set[int] = set()
    waiting: list[Any] = [tensor]
    while waiting:
        value = waiting.pop()
        if not isinstance(value, LazyTensor) or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value.source, _Stored):
            shapes[value.source.name] = value.shape
        else:
            waiting += tree_flatten((value.source.args, value.source.kwargs))[0]
    return shapes
