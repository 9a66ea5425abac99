"""Tables of the rotation, computed from their frequencies when a session is created: a file holds weights.

A table has a row for each position p and a column for each frequency f: s * cos(p * f), or sin, in float32. That is
67 MB in a Gemma 3 of 270 million parameters, as much as a quarter of its weights. So for every pair of such tables:

1. Frequencies and scale are found from the values, whatever formula made them: angles of the positions 1, 2, 4, ...,
   each twice as exact as the one before. A table may be several of these below one another, each from position 0.
2. Where they give the values again to within TOLERANCE, the table becomes Range, Mul, Cos, Sin. ONNX Runtime folds
   such nodes while it creates a session, unless its optimizations are turned off: then they run with every call.
3. Any other table stays as it is.
4. Tables end at the length that is asked for. With none asked for, computed ones end where together they would be
   larger than DEFAULT_BYTES, because they take that much memory in every session. ONNX Runtime refuses positions beyond
   a table's end.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from exporter.graph.values import NodeBuilder, constant

__all__ = ["RotationTablesPass"]

# Of values at most s large: cos and sin of two libraries, each with 1 or 2 units in the last place (2^-24), the product
# with s, and a frequency that no row with an angle above 2 tells from its float32 neighbor.
TOLERANCE = 2**-22
DEFAULT_BYTES = 64 << 20
_LENGTH_MULTIPLE = 1024  # of a length that DEFAULT_BYTES decides
_ROWS = 1 << 14  # compared at a time
_MATRIX = 2


@dataclass(frozen=True)
class _Part:
    """Rows of a pair of tables that count positions from 0."""

    length: int
    frequencies: np.ndarray  # float32 [width]


@dataclass(frozen=True)
class _Pair:
    """A table of cosines and one of sines, and what they are made of; no parts where that is not known."""

    cos: ir.Value
    sin: ir.Value
    scale: float
    parts: tuple[_Part, ...]

    @property
    def rows_bytes(self) -> int:
        """Bytes of a position in both tables."""
        return sum(table.nbytes // len(table) for table in (_array(self.cos), _array(self.sin)))


class RotationTablesPass(ir.passes.InPlacePass):
    """See the module's docstring.

    Attributes:
        length: positions that every table has, once the pass has run; None where there are no tables.
    """

    def __init__(self, max_length: int | None) -> None:
        """`max_length` is the number of positions asked for."""
        super().__init__()
        self.length: int | None = None
        self._max_length = max_length

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass."""
        pairs = list(_pairs(model))
        limit = self._max_length or _default_length(pairs)
        modified = False
        for index, pair in enumerate(pairs):
            if pair.parts:
                last = pair.parts[-1]
                parts = (*pair.parts[:-1], replace(last, length=min(last.length, limit)))
                _compute(model, replace(pair, parts=parts), index)
                length = parts[-1].length
            else:
                length = len(_array(pair.cos))
                if self._max_length is not None and length > limit:
                    length = limit
                    _shorten(model, pair, length)
            modified = True
            self.length = length if self.length is None else min(self.length, length)
        return ir.passes.PassResult(model, modified)


def _pairs(model: ir.Model) -> Iterator[_Pair]:
    """Constants that are cosines of positions, each with its sines."""
    matrices = [value for value in model.graph.initializers.values() if _is_matrix(value)]
    sines = [value for value in matrices if not _array(value)[0].any()]
    for cos in matrices:
        first = _array(cos)[0]
        if first[0] <= 0 or (first != first[0]).any():
            continue
        for sin in sines:
            if _belong(_array(cos), _array(sin)):
                sines.remove(sin)
                yield _Pair(cos, sin, float(first[0]), _parts(_array(cos), _array(sin)))
                break


def _is_matrix(value: ir.Value) -> bool:
    tensor = value.const_value
    return (
        tensor is not None and tensor.dtype == ir.DataType.FLOAT and tensor.shape.rank() == _MATRIX and tensor.size > 0
    )


def _array(value: ir.Value) -> np.ndarray:
    assert value.const_value is not None
    return value.const_value.numpy()


def _belong(cos: np.ndarray, sin: np.ndarray) -> bool:
    """Tell if every pair of values lies on one circle."""
    if cos.shape != sin.shape:
        return False
    scale = float(cos[0, 0])
    for rows in _slices(len(cos)):
        radius = np.hypot(cos[rows], sin[rows])
        if not np.allclose(radius, scale, rtol=0, atol=scale * TOLERANCE):
            return False
    return True


def _parts(cos: np.ndarray, sin: np.ndarray) -> tuple[_Part, ...]:
    """The parts that a pair of tables consists of; none where these do not give its values again."""
    scale = cos[0, 0]
    first = (sin == 0).all(1) & (cos == scale).all(1)
    starts = np.array([0]) if first.all() else np.flatnonzero(first)  # frequencies may all be 0
    parts: list[_Part] = []
    for begin, end in zip(starts, [*starts[1:], len(cos)], strict=True):
        rows = slice(begin, end)
        frequencies = _frequencies(cos[rows], sin[rows])
        if not _gives(frequencies, scale, cos[rows], sin[rows]):
            return ()
        parts.append(_Part(int(end - begin), frequencies))
    return tuple(parts)


def _frequencies(cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """Frequencies, float32 [width]: the product of a power of two and a float32 is exact, so those rows tell most."""
    frequencies = np.zeros(cos.shape[1])
    position = 1
    while position < len(cos):
        angle = np.arctan2(sin[position].astype(np.float64), cos[position].astype(np.float64))
        apart = angle - position * frequencies
        frequencies += (apart - 2 * np.pi * np.round(apart / (2 * np.pi))) / position
        position *= 2
    return frequencies.astype(np.float32)


def _gives(frequencies: np.ndarray, scale: np.float32, cos: np.ndarray, sin: np.ndarray) -> bool:
    for rows in _slices(len(cos)):
        angles = np.arange(len(cos), dtype=np.float32)[rows, None] * frequencies
        for found, wanted in ((np.cos(angles), cos[rows]), (np.sin(angles), sin[rows])):
            if not np.allclose(found * scale, wanted, rtol=0, atol=float(scale) * TOLERANCE):
                return False
    return True


def _slices(length: int) -> Iterator[slice]:
    return (slice(begin, min(begin + _ROWS, length)) for begin in range(0, length, _ROWS))


def _default_length(pairs: list[_Pair]) -> int:
    """The length at which all tables that are computed together take DEFAULT_BYTES, or their own if it is less."""
    size = sum(pair.rows_bytes for pair in pairs if pair.parts)
    longest = max((pair.parts[-1].length for pair in pairs if pair.parts), default=0)
    if size * longest <= DEFAULT_BYTES:
        return longest
    return max(_LENGTH_MULTIPLE, DEFAULT_BYTES // size // _LENGTH_MULTIPLE * _LENGTH_MULTIPLE)


def _compute(model: ir.Model, pair: _Pair, index: int) -> None:
    """Let nodes take the place of a pair of tables."""
    build = NodeBuilder(model, model.graph[0], f"rotation_{index}")
    axis, scale = build.constant("axis", np.array([1], np.int64)), None
    start, step = build.constant("start", np.array(0, np.float32)), build.constant("step", np.array(1, np.float32))
    if pair.scale != 1:
        scale = build.constant("scale", np.array(pair.scale, np.float32))
    angles: list[ir.Value] = []
    for number, part in enumerate(pair.parts):
        end = build.constant(f"length_{number}", np.array(part.length, np.float32))
        frequencies = build.constant(f"frequencies_{number}", part.frequencies)
        angles.append(build("Mul", build("Unsqueeze", build("Range", start, end, step), axis), frequencies))
    together = angles[0] if len(angles) == 1 else build("Concat", *angles, axis=0)
    shape = [sum(part.length for part in pair.parts), len(pair.parts[0].frequencies)]
    for old, operator in ((pair.cos, "Cos"), (pair.sin, "Sin")):
        new = build(operator, together)
        if scale is not None:
            new = build("Mul", new, scale)
        new.type, new.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(shape)
        _replace(model, old, new)


def _shorten(model: ir.Model, pair: _Pair, length: int) -> None:
    for old in (pair.cos, pair.sin):
        _replace(model, old, constant(model, f"{old.name}.first_{length}", _array(old)[:length].copy()))


def _replace(model: ir.Model, old: ir.Value, new: ir.Value) -> None:
    ir.convenience.replace_all_uses_with(old, new)
    del model.graph.initializers[str(old.name)]
