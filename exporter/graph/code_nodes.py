"""Weights of layout codes as the inputs of MatMulNBits: nodes in ONNX's text form.

Where a code of the operator has P bits, its weight input is the stored tensor. Else its bytes are made anew, those of
the zero points of groups, which follow in the same form, among them:

- wider codes, from a table of 256 entries: a byte of numbers becomes the bytes of their codes;
- numbers of 8 bits as two nibbles: of bytes beside one another, by bitwise operators, which need no indices.

The runtime does this when it loads the model, and keeps what it made until it has loaded all of it: memory counts.
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
    """`codes_all{i}` [N, blocks, bytes of a block] of each part i, from `codes`; blocks of zero points follow.

    They read `zero`, `one`, `two` and `codes_shape`, the shape of the result.
    """
    same = stock.block_size == form.group_size
    if stock.bits < form.planes:
        return _nibbles(same)
    if stock.bits == form.planes:
        return [f"codes_all0 = {_shaped('codes', same)}"]
    (part,) = stock.parts
    numbers = byte_numbers(form.planes) << part.shifts[0]
    per_byte = _BYTE // stock.bits
    placed = numbers.reshape(256, -1, per_byte) << (stock.bits * np.arange(per_byte))
    tables["wider"] = placed.sum(axis=2).astype(np.uint8)
    return [
        f"codes_index = Cast <to = {_INT32}> (codes)",
        "codes_wide = Gather <axis = 0> (wider, codes_index)",
        "codes_all0 = Reshape (codes_wide, codes_shape)",
    ]


def weight_codes(i: int, form: PlaneFormat, stock: StockForm) -> list[str]:
    """`codes{i}`, the blocks of `codes_all{i}` that weights have. They read `zero`, `one` and `blocks`."""
    if form.zero == EACH_GROUP or stock.block_size < form.group_size:
        return [f"codes{i} = Slice (codes_all{i}, zero, blocks, one)"]
    return [f"codes{i} = Identity (codes_all{i})"]


def _shaped(codes: str, same: bool) -> str:
    return f"Identity ({codes})" if same else f"Reshape ({codes}, codes_shape)"


def _nibbles(same: bool) -> list[str]:
    """High nibbles of the numbers of 8 bits, and low ones; `same` where blocks are groups."""
    lines = []
    for name, number in {"low_mask": 15, "high_mask": 240, "nibble": 4}.items():
        lines += [
            f"{name}_number = Constant <value_int = {number}> ()",
            f"{name} = Cast <to = 2> ({name}_number)",
        ]
    return [
        *lines,
        f"last_input = Constant <value_ints: ints = [{np.iinfo(np.int64).max}]> ()",
        "even_bytes = Slice (codes, zero, last_input, two, two)",
        "odd_bytes = Slice (codes, one, last_input, two, two)",
        'even_high = BitShift <direction = "RIGHT"> (even_bytes, nibble)',
        "odd_high = BitwiseAnd (odd_bytes, high_mask)",
        "high_bytes = BitwiseOr (even_high, odd_high)",
        f"codes_all0 = {_shaped('high_bytes', same)}",
        "even_low = BitwiseAnd (even_bytes, low_mask)",
        'odd_low = BitShift <direction = "LEFT"> (odd_bytes, nibble)',
        "low_bytes = BitwiseOr (even_low, odd_low)",
        f"codes_all1 = {_shaped('low_bytes', same)}",
    ]
