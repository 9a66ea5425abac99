"""From numbers to planes: the smallest form that says what a reader read."""

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from dualbinary import InputError
from dualbinary.contract.scale_codes import BFLOAT16
from dualbinary.contract.weight import EACH_GROUP, PER_CHANNEL, PlaneFormat, PlaneWeight
from importer.model import Numbers, PackedWeight

__all__ = ["plane_weight"]

_WEIGHTS = 1 << 22  # packed at a time


def plane_weight(packed: PackedWeight, numbers: Numbers, module: str) -> PlaneWeight:
    """The planes of `module`, a weight that `packed` describes; they stand for exactly what `numbers` do.

    Zero points that are all alike become one of the whole weight. Some that are no number of P bits, or whose halves
    differ, become offsets; offsets that one zero point says become that. Scales have the first of float16, bfloat16 and
    float32 that holds all of them.

    Raises InputError, naming `module`, where the numbers do not fit the description or a scale is not finite.
    """
    _check(packed, numbers, module)
    zero, zeros, offset = _centre(numbers, packed.bits)
    rows = [numbers.step] if offset is None else [numbers.step, offset]
    scales = _smallest(np.stack([np.broadcast_to(row, numbers.step.shape) for row in rows]))
    whole = numbers.step.shape == (1, 1) and packed.N > 1
    size = packed.group_size if packed.group_size < packed.K else PER_CHANNEL
    form = PlaneFormat(packed.bits, size, offset is not None, levels="even", zero=zero, scale_dtype=scales.dtype)
    return _packed(numbers.q, scales, replace(form, per_tensor=whole), zeros)


def _packed(
    q: npt.NDArray[np.uint8], scales: npt.NDArray[Any], form: PlaneFormat, zeros: npt.NDArray[np.integer] | None
) -> PlaneWeight:
    """The weight, made of some rows at a time: a vocabulary table is large, and its planes take a byte a bit first."""
    parts: list[PlaneWeight] = []
    for begin in range(0, len(q), step := max(1, _WEIGHTS // q.shape[1])):
        rows = slice(begin, begin + step)
        own = scales if form.per_tensor else scales[:, rows]
        parts.append(PlaneWeight.pack_even(q[rows], own, form, None if zeros is None else zeros[rows]))
    planes = np.concatenate([part.planes for part in parts], axis=1)
    return replace(parts[0], planes=planes, scales=scales)


def _centre(
    numbers: Numbers, bits: int
) -> tuple[float | str, npt.NDArray[np.integer] | None, npt.NDArray[np.floating] | None]:
    """Zero of the form, zero points of groups, offsets: one of the three."""
    zero = numbers.zero
    if numbers.offset is not None:
        point = _zero_point(numbers.step, numbers.offset, bits)
        return (0.0, None, numbers.offset) if point is None else (point, None, None)
    assert zero is not None
    values = np.asarray(zero)
    most = (1 << bits) - 1
    if values.min() == values.max():
        first = float(values.flat[0])
        if 0 <= first <= most and (2 * first).is_integer():
            return (first, None, None)
    elif values.min() >= 0 and values.max() <= most and np.issubdtype(values.dtype, np.integer):
        return (EACH_GROUP, values, None)
    # A product of a float16 step and a zero point of up to 13 bits is exact in float32.
    return (0.0, None, (-values * numbers.step.astype(np.float64)).astype(np.float32))


def _zero_point(step: npt.NDArray[np.floating], offset: npt.NDArray[np.floating], bits: int) -> float | None:
    """The zero point that all offsets stand for, exactly; None where they do not (MLX says ternary weights by them)."""
    steps, offsets = step.astype(np.float64), offset.astype(np.float64)
    at = np.unravel_index(np.argmax(np.abs(steps)), steps.shape)
    if steps[at] == 0:
        return None
    point = -offsets[at] / steps[at]
    allowed = 0 <= point <= (1 << bits) - 1 and (2 * point).is_integer()
    return float(point) if allowed and np.array_equal(offsets, -point * steps) else None


def _smallest(values: npt.NDArray[np.floating]) -> npt.NDArray[Any]:
    """`values` in the first type that holds them: float16, bfloat16 (as its bits), float32."""
    for dtype in (np.float16, ml_dtypes.bfloat16):
        with np.errstate(over="ignore"):
            narrow = values.astype(dtype)
        if np.array_equal(narrow.astype(values.dtype), values):
            return narrow if dtype is np.float16 else narrow.view(BFLOAT16)
    return values.astype(np.float32)


def _check(packed: PackedWeight, numbers: Numbers, module: str) -> None:
    size = packed.group_size if 0 < packed.group_size < packed.K else packed.K
    groups = -(-packed.K // size)
    shapes = {(packed.N, groups), (1, 1)}
    arrays: dict[str, Any] = {"step": numbers.step, "zero": numbers.zero, "offset": numbers.offset}
    if numbers.q.shape != (packed.N, packed.K):
        raise InputError(f"{module}: expected numbers [{packed.N}, {packed.K}], got {list(numbers.q.shape)}")
    for name, array in arrays.items():
        if isinstance(array, np.ndarray) and array.shape not in shapes:
            raise InputError(f"{module}: expected {name} [{packed.N}, {groups}], got {list(array.shape)}")
        if isinstance(array, np.ndarray) and not np.isfinite(array).all():
            raise InputError(f"{module}: a {name} is not finite")
