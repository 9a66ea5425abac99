"""The form of a vocabulary table by its bits, for whoever makes one: measured on a whole model (docs/log/export.md)."""

from collections.abc import Mapping

import numpy as np

from dualbinary.contract.schema import OP
from dualbinary.contract.weight import EACH_GROUP, PlaneFormat

__all__ = ["TABLE_BITS", "table_format"]

_CODES, _HALF = np.dtype(np.uint8), np.dtype(np.float16)
_FORMS: Mapping[int, tuple[int, float | str, np.dtype]] = {
    2: (32, 2, _CODES),
    3: (32, EACH_GROUP, _CODES),
    4: (32, EACH_GROUP, _CODES),
    8: (64, 128, _HALF),
}
"""Group size, zero and type of scales."""

TABLE_BITS = tuple(_FORMS)
"""Bits that a table may have."""


def table_format(bits: int, width: int) -> PlaneFormat:
    """The form of a table of so many bits, one of TABLE_BITS, whose rows have `width` weights, in layout plain."""
    group_size, zero, scale_dtype = _FORMS[bits]
    if width % group_size:
        group_size = OP.limits["group_multiple"]  # padding to whole groups costs more than a scale for 32 weights
    return PlaneFormat(bits, group_size, levels="even", zero=zero, scale_dtype=scale_dtype)
