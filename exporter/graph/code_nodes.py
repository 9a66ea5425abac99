"""Weights of layout codes as the inputs of MatMulNBits: nodes in ONNX's text form.

Where a code of the operator has P bits, its weight input is the stored tensor, behind a Reshape: ONNX Runtime 1.32
multiplies nothing at accuracy level 4 where codes are a constant and scales are computed
(findings/onnxruntime_computed_scales.sh), so neither may be a constant unless both are, as in a session that folds
them. Else codes are wider, and their bytes come from a table of 256 entries, by the byte of numbers; zero points of
groups, which follow in the same form, too. The runtime does this when it loads the model.
"""

import numpy as np
import numpy.typing as npt

from dualbinary.contract.weight import EACH_GROUP, PlaneFormat
from exporter.graph.stock_forms import StockForm

__all__ = ["all_codes", "byte_numbers", "weight_codes"]

_INT32 = 6
_BYTE = 8


def byte_numbers(planes: int) -> npt.NDArray[np.int64]:
    """The numbers of so many bits in every byte, lowest bits first: [256, 8 / planes]."""
    return np.arange(256)[:, None] >> np.arange(0, _BYTE, planes) & (1 << planes) - 1


def all_codes(form: PlaneFormat, stock: StockForm, tables: dict[str, np.ndarray]) -> list[str]:
    """`codes_all` [N, blocks, bytes of a block], from `codes`; blocks of zero points follow.

    They read `codes_shape`, the shape of the result.
    """
    if stock.bits == form.planes:
        return ["codes_all = Reshape (codes, codes_shape)"]
    (part,) = stock.parts
    numbers = byte_numbers(form.planes) << part.shifts[0]
    per_byte = _BYTE // stock.bits
    placed = numbers.reshape(256, -1, per_byte) << (stock.bits * np.arange(per_byte))
    tables["wider"] = placed.sum(axis=2).astype(np.uint8)
    return [
        f"codes_index = Cast <to = {_INT32}> (codes)",
        "codes_wide = Gather <axis = 0> (wider, codes_index)",
        "codes_all = Reshape (codes_wide, codes_shape)",
    ]


def weight_codes(form: PlaneFormat, stock: StockForm) -> list[str]:
    """`number_codes`, the blocks of `codes_all` that weights have. They read `zero`, `one` and `blocks`."""
    if form.zero == EACH_GROUP or stock.block_size < form.group_size:
        return ["number_codes = Slice (codes_all, zero, blocks, one)"]
    return ["number_codes = Identity (codes_all)"]
