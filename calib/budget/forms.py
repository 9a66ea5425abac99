"""The formats among which a bit budget chooses, for a layer of K inputs.

Planes from 1 to 8, in short, middling and long groups. Scales have 8 bits (docs/decisions/0008). Even levels with an
offset are the best form by the bit from three planes on; with one and two planes free levels are there beside them
(docs/log/fitting.md).
"""

from dataclasses import replace

import numpy as np

from dualbinary import OP, padded_k
from dualbinary.contract.weight import PlaneFormat
from dualbinary.fitting.table_forms import TABLE_BITS, table_format

__all__ = ["candidates", "table_candidates"]

SHORT, MIDDLE = 32, 64
LONG = (128, 192, 96, 160, 224, 256)  # the first that divides the inputs
CODES = np.dtype(np.uint8)

# Planes, levels, and the groups that they are worth having with.
KINDS = (
    (1, "even", "sm"),
    (2, "even", "sml"),
    (2, "free", "ml"),
    (3, "even", "sml"),
    (4, "even", "sml"),
    (5, "even", "sm"),
    (6, "even", "m"),
    (8, "even", "m"),
)


def _groups(K: int) -> dict[str, int]:
    """Sizes by letter; groups that K is not a multiple of would store padding."""
    padded = padded_k(K, OP.limits["group_multiple"])
    wanted = {"s": (SHORT,), "m": (MIDDLE, 96, 32), "l": (*LONG, MIDDLE, 32)}
    return {letter: next(size for size in sizes if padded % size == 0) for letter, sizes in wanted.items()}


def candidates(K: int) -> list[PlaneFormat]:
    """The formats of a layer of K inputs, in layout plain, none twice."""
    groups = _groups(K)
    forms = [
        PlaneFormat(planes, groups[letter], offset=True, levels=levels, scale_dtype=CODES)
        for planes, levels, letters in KINDS
        for letter in letters
    ]
    return list(dict.fromkeys(forms))


def table_candidates(width: int, bits: int | None = None) -> list[tuple[int, PlaneFormat]]:
    """Bits and format of a vocabulary table whose rows have `width` weights; of `bits` alone where they are given."""
    forms = {one: replace(table_format(one, width), scale_dtype=CODES) for one in TABLE_BITS if bits in (None, one)}
    return list(forms.items())
