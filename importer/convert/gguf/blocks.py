"""Levels as blocks of GGUF: for each type what it holds, and its bytes. The inverse of importer/readers/gguf/blocks.py.

    w = d · r                r between two numbers            Q1_0 (-1 and 1), TQ2_0, Q2_0, Q4_0, Q5_0, Q8_0
    w = d · q + m            q from 0 on                      Q4_1, Q5_1

d and m are float16. A step that is none is rounded, once, where that changes it by 2^-11 at most.
https://github.com/ggml-org/llama.cpp/blob/master/ggml/src/ggml-common.h
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from importer.convert.levels import EvenLevels, half_rounded, of_blocks

__all__ = ["FORMS", "BlockForm", "Blocks", "blocks_of"]

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class BlockForm:
    """A type.

    Attributes:
        name, number: as llama.cpp has them.
        weights: in a block.
        size: of a block in bytes.
        least, most: of r, or of q.
        offset: it has an m.
        pack: q uint8 [B, weights] from 0 on, without a scale, as the bytes of a block.
        before: the scales stand before these bytes.
        odd: r has no even numbers; q = (r + 1) / 2.
    """

    name: str
    number: int
    weights: int
    size: int
    least: int
    most: int
    pack: Callable[[Bytes], Bytes]
    offset: bool = False
    before: bool = True
    odd: bool = False


def _bits(q: Bytes) -> Bytes:
    return np.packbits(q, axis=1, bitorder="little")


def _pairs(q: Bytes) -> Bytes:
    return _over(q.reshape(len(q), -1, 4).swapaxes(1, 2), 2)


def _planes_of_pairs(q: Bytes) -> Bytes:
    """Lines of 32 bytes, each with 32 weights in its lowest bits, the next 32 in those above, and so on."""
    lines = q.reshape(-1, 4, 32)
    return _over(lines, 2).reshape(len(q), -1)


def _nibbles(q: Bytes) -> Bytes:
    return _over((q & np.uint8(15)).reshape(len(q), 2, -1), 4)


def _fifths(q: Bytes) -> Bytes:
    return np.concatenate([_bits(q >> np.uint8(4)), _nibbles(q)], axis=1)


def _bytes(q: Bytes) -> Bytes:
    return q ^ np.uint8(0x80)  # a signed byte


def _over(fields: Bytes, width: int) -> Bytes:
    """Bytes of fields [B, 8 / width, bytes], the first in the lowest bits."""
    shifts = np.arange(0, 8, width, dtype=np.uint8)[:, None]
    return np.bitwise_or.reduce(fields << shifts, axis=1)


FORMS = (
    BlockForm("Q1_0", 41, 128, 18, -1, 1, _bits, odd=True),
    BlockForm("TQ2_0", 35, 256, 66, -1, 1, _planes_of_pairs, before=False),
    BlockForm("Q2_0", 42, 64, 18, -1, 2, _pairs),
    BlockForm("Q4_0", 2, 32, 18, -8, 7, _nibbles),
    BlockForm("Q4_1", 3, 32, 20, 0, 15, _nibbles, offset=True),
    BlockForm("Q5_0", 6, 32, 22, -16, 15, _fifths),
    BlockForm("Q5_1", 7, 32, 24, 0, 31, _fifths, offset=True),
    BlockForm("Q8_0", 8, 32, 34, -128, 127, _bytes),
)
"""The types that are written, the smallest first."""


@dataclass(frozen=True, eq=False)
class Blocks:
    """Some outputs in a type.

    Attributes:
        q: uint8 [N, K], as the type packs them.
        scales: d, or d and m, each float16 [N, K / weights].
        rounding: the largest relative change of a scale.
    """

    form: BlockForm
    q: Bytes
    scales: tuple[npt.NDArray[np.float16], ...]
    rounding: float

    def pack(self) -> Bytes:
        """The bytes [N, bytes of a row]."""
        N, K = self.q.shape
        body = self.form.pack(self.q.reshape(-1, self.form.weights))
        head = np.stack([scale.reshape(-1) for scale in self.scales], axis=1).astype("<f2").view(np.uint8)
        parts = [head, body] if self.form.before else [body, head]
        return np.concatenate(parts, axis=1).reshape(N, K // self.form.weights * self.form.size)


def blocks_of(levels: EvenLevels, form: BlockForm) -> Blocks | None:
    """The levels as blocks of a type; None where it does not hold them. Nothing is asked of the rounding."""
    K = levels.q.shape[1]
    group_size, given = levels.group_size, levels
    q = levels.q if form.offset else levels.centered
    rows = [levels.step, levels.offset] if form.offset else [levels.part]
    if q is None:
        return None
    if given.order is not None:
        if given.step.shape[1] > 1:  # inputs of a group are not neighbors
            return None
        q = q[:, np.argsort(given.order)]
    scales = [of_blocks(row, group_size, K, form.weights) for row in rows]
    if any(scale is None for scale in scales):
        return None
    code = _codes(q, form)
    if code is None:
        return None
    sign, q8 = code
    rounded = [half_rounded(sign * scale) for scale in scales if scale is not None]
    return Blocks(form, q8, tuple(narrow for narrow, _ in rounded), max(change for _, change in rounded))


def _codes(q: npt.NDArray[np.int16], form: BlockForm) -> tuple[int, Bytes] | None:
    """The sign of d, and numbers as the type packs them; None where some are beyond it."""
    low, high = int(q.min(initial=0)), int(q.max(initial=0))
    if form.odd:
        return (1, (q > 0).astype(np.uint8)) if (np.abs(q) == 1).all() else None
    for sign in (1,) if form.offset else (1, -1):
        least, most = sorted((sign * low, sign * high))
        if form.least <= least and most <= form.most:
            return sign, (sign * q - form.least).astype(np.uint8)
    return None
