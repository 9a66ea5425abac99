"""Weights of layout codes as the inputs of MatMulNBits: nodes in ONNX's text form.

Where a code of the operator has P bits, its weight input is the stored tensor. Else its bytes are made anew, those of
the zero points of groups, which follow in the same form, among them:

- wider codes, from a table of 256 entries: a byte of numbers becomes the bytes of their codes;
- numbers of 8 bits as two nibbles: pairs of bytes, by bitwise operators, which need no indices.
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

    They read `minus_one`, `n1` and `codes_shape`, the shape of the result.
    """
    if stock.bits < form.planes:
        return _nibbles()
    if stock.bits == form.planes:
        same = stock.block_size == form.group_size
        return [f"codes_all0 = {'Identity (codes)' if same else 'Reshape (codes, codes_shape)'}"]
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


def _nibbles() -> list[str]:
    """High nibbles of pairs of bytes, and low ones."""
    constants = {"low_mask": 15, "high_mask": 240, "nibble": 4}
    lines = ["pair_size = Constant <value_ints: ints = [2]> ()"]
    for name, number in constants.items():
        lines += [
            f"{name}_number = Constant <value_int = {number}> ()",
            f"{name} = Cast <to = 2> ({name}_number)",
        ]
    return [
        *lines,
        "pairs_shape = Concat <axis = 0> (n1, minus_one, pair_size)",
        "pairs = Reshape (codes, pairs_shape)",
        "even_at = Constant <value_int = 0> ()",
        "odd_at = Constant <value_int = 1> ()",
        "even_bytes = Gather <axis = 2> (pairs, even_at)",
        "odd_bytes = Gather <axis = 2> (pairs, odd_at)",
        'even_high = BitShift <direction = "RIGHT"> (even_bytes, nibble)',
        "odd_high = BitwiseAnd (odd_bytes, high_mask)",
        "high_bytes = BitwiseOr (even_high, odd_high)",
        "codes_all0 = Reshape (high_bytes, codes_shape)",
        "even_low = BitwiseAnd (even_bytes, low_mask)",
        'odd_low = BitShift <direction = "LEFT"> (odd_bytes, nibble)',
        "low_bytes = BitwiseOr (even_low, odd_low)",
        "codes_all1 = Reshape (low_bytes, codes_shape)",
    ]
