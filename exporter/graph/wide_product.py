"""MatMulNBits of 8-bit codes that keeps activations at 15 bits, in ONNX's text form.

At accuracy level 0 ONNX Runtime unpacks weights of 8 bits at every call, in 300 times the time that its level 4 takes.
That rounds X to 8 bits first, in blocks of G inputs, to multiples of u = max |X| / 127. So X is given as two rows,

    H = u * round(X / u)        which it keeps
    L = X - H                   which it rounds to max |L| / 127 at most, |L| <= u / 2: X has 15 bits

and their products, which read the weight once, are added. A runtime that does not round, or unpacks, computes the same
sum; one that rounds in other blocks keeps 8 bits.
"""

from dataclasses import dataclass

import numpy as np

from exporter.graph.stock_forms import StockForm

__all__ = ["Calls", "is_wide", "wide_product"]

_BYTE = 8
_INT8_MAX = 127


@dataclass(frozen=True)
class Calls:
    """What all nodes have in common that a function is for; less is always true.

    Attributes:
        sequences: X is [batch, sequence, K].
        whole: K is a multiple of the group size.
    """

    sequences: bool = False
    whole: bool = False


def is_wide(stock: StockForm, accuracy_level: int) -> bool:
    """Codes are of 8 bits and activations are to keep more."""
    return stock.bits == _BYTE and accuracy_level == 0


def wide_product(operator: str, weight: str, block: int, calls: Calls) -> list[str]:
    """`product` of `X`: nodes that read `k1`, `n1`, `blocks`, `zero`, `two` and `minus_one`.

    `operator` is MatMulNBits with its attributes, `weight` its inputs behind X, scales in float32.
    """
    padded = ["w_padded = Identity (w_flat)"]
    if not calls.whole:
        padded = [
            "w_rest = Mod (k1, block_size)",
            "w_lack = Sub (block_size, w_rest)",
            "w_more = Mod (w_lack, block_size)",
            "w_pads = Concat <axis = 0> (zero, w_more)",
            "w_padded = Pad (w_flat, w_pads, , minus_one)",
        ]
    rows = ["w_rows = Reshape (w_both, w_rows_shape)"]
    if not calls.whole:
        rows = ["w_padded_rows = Reshape (w_both, w_rows_shape)", "w_rows = Slice (w_padded_rows, zero, k1, two)"]
    return [
        "w_x = Cast <to = 1> (X)",
        "w_flat_shape = Concat <axis = 0> (minus_one, k1)",
        "w_flat = Reshape (w_x, w_flat_shape)",
        *padded,
        "w_shape = Concat <axis = 0> (minus_one, blocks, block_size)",
        "w_grouped = Reshape (w_padded, w_shape)",
        "w_absolute = Abs (w_grouped)",
        "w_largest = ReduceMax (w_absolute, minus_one)",
        f"w_most = Constant <value = float {{{float(_INT8_MAX)}}}> ()",
        f"w_tiny = Constant <value = float {{{np.finfo(np.float32).tiny}}}> ()",  # for blocks of zeros
        "w_quotient = Div (w_largest, w_most)",
        "w_unit = Max (w_quotient, w_tiny)",
        "w_numbers = Div (w_grouped, w_unit)",
        "w_rounded = Round (w_numbers)",
        "w_high = Mul (w_rounded, w_unit)",
        "w_low = Sub (w_grouped, w_high)",
        "w_both = Concat <axis = 0> (w_high, w_low)",
        "w_padded_k = Mul (blocks, block_size)",
        "w_rows_shape = Concat <axis = 0> (two, minus_one, w_padded_k)",
        *rows,
        f"w_products = {operator} (w_rows, {weight})",
        "w_sum = ReduceSum <keepdims = 0> (w_products, zero)",
        "w_lead = Shape <end = -1> (X)",
        "w_result_shape = Concat <axis = 0> (w_lead, n1)",
        "w_result = Reshape (w_sum, w_result_shape)",
        "product = CastLike (w_result, X)",
    ]
