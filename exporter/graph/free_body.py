"""Bodies of the fallback function for weights of free levels, and what bodies share, in ONNX's text form.

- `nbits_body`: each plane becomes the 4- or 2-bit weight of a MatMulNBits: a table of 256 entries turns a byte of bits
  into codes b + 2^(bits-1), so that the operator's default zero point gives back b and the scales are used as they
  are. The runtime folds tables and reshapes when it loads the model and keeps `bits` bits per weight and plane.
- `standard_body`: ONNX operators alone. ONNX Runtime folds it to a float weight.

For a group_size that MatMulNBits has no fast kernel for (no power of two, above 256, or above 128 with two bits) its
quantization blocks have 32 inputs and repeated scales.
"""

from collections.abc import Collection

import numpy as np

from dualbinary import OP
from dualbinary.contract.weight import PlaneFormat
from exporter.graph.wide_product import Calls

__all__ = ["nbits_body", "offset_product", "standard_body", "with_rows_that_are_none"]

_BLOCK_SIZE = OP.limits["group_multiple"]
# Largest block of MatMulNBits with a fast kernel, by bits. It takes blocks of 256 of two bits too, 100 times as slow.
_MAX_BLOCK_SIZES = {4: 256, 2: 128}


def nbits_body(
    bits: int, formats: Collection[PlaneFormat], accuracy_level: int, calls: Calls
) -> tuple[str, dict[str, np.ndarray]]:
    """Nodes from `X`, `planes` and `scale_values` to `Y`, and the table that they read.

    The formats differ in group size alone. Where all of these are block sizes, blocks are groups.
    """
    sizes = {each.group_size for each in formats}
    by_group = all(size & (size - 1) == 0 and size <= _MAX_BLOCK_SIZES[bits] for size in sizes)
    return _nbits_text(bits, next(iter(formats)), by_group, accuracy_level, calls), {"table": _code_table(bits)}


def _code_table(bits: int) -> np.ndarray:
    """uint8 [256, bits]: the codes of the eight bits of a byte, packed low bits first."""
    byte = np.arange(256, dtype=np.uint8)[:, None]
    codes = (byte >> np.arange(8, dtype=np.uint8) & 1) + (1 << (bits - 1))  # [256, 8]
    per_byte = 8 // bits
    shifted = codes.reshape(256, bits, per_byte) << (bits * np.arange(per_byte))
    return shifted.sum(axis=2).astype(np.uint8)


def _nbits_text(bits: int, plane_format: PlaneFormat, by_group: bool, accuracy_level: int, calls: Calls) -> str:
    """Text with one MatMulNBits per plane; `by_group` makes its quantization blocks the groups, else they have 32."""
    block = "block_size: int = @group_size" if by_group else f"block_size = {_BLOCK_SIZE}"
    lines = [
        "minus_one = Constant <value_ints: ints = [-1]> ()",
        "n = Constant <value_int: int = @N> ()",
        "n1 = Reshape (n, minus_one)",
    ]
    if by_group:
        lines += ["group = Constant <value_int: int = @group_size> ()", "block = Reshape (group, minus_one)"]
    else:
        lines.append(f"block = Constant <value_ints: ints = [{_BLOCK_SIZE}]> ()")
    lines += [
        "k = Constant <value_int: int = @K> ()",
        "k1 = Reshape (k, minus_one)",
        "one = Constant <value_ints: ints = [1]> ()",
        "eight = Constant <value_ints: ints = [8]> ()",
        f"bits = Constant <value_ints: ints = [{bits}]> ()",
        "k_up = Add (k1, block)",
        "k_up1 = Sub (k_up, one)",
        "blocks = Div (k_up1, block)",
        "block_bits = Mul (block, bits)",
        "blob = Div (block_bits, eight)",
        "all_shape = Concat <axis = 0> (n1, minus_one, blob)",
        "zero = Constant <value_ints: ints = [0]> ()",
    ]
    for p in range(plane_format.planes):
        lines += [
            f"p{p} = Constant <value_int = {p}> ()",
            f"plane{p} = Gather <axis = 0> (planes, p{p})",
            f"index{p} = Cast <to = 6> (plane{p})",
            f"packed{p} = Gather <axis = 0> (table, index{p})",
            f"codes_all{p} = Reshape (packed{p}, all_shape)",
            f"codes{p} = Slice (codes_all{p}, zero, blocks, one)",
            f"scale_group{p} = Gather <axis = 0> (scale_values, p{p})",
            f"scale_typed{p} = CastLike (scale_group{p}, X)",
            *_block_scales(p, by_group),
            f"y{p} = com.microsoft.MatMulNBits <K: int = @K, N: int = @N, bits = {bits}, {block}, "
            f"accuracy_level: int = @accuracy_level> (X, codes{p}, scale{p})",
        ]
        lines.append(f"sum{p} = {'Identity (y0)' if p == 0 else f'Add (sum{p - 1}, y{p})'}")
    lines.append(f"sum = Identity (sum{plane_format.planes - 1})")
    if plane_format.offset:
        end = f"{offset_product(_LAST_ROW, calls)}Y = Add(sum, offset_sum)"
    else:
        end = with_rows_that_are_none("sum") if accuracy_level else "Y = Identity(sum)"
    return "\n".join([*lines, end]) + "\n"


def _block_scales(p: int, by_group: bool) -> list[str]:
    """Text for scales [N, blocks] of plane p from scales [N, groups]: the same, or each repeated within its group."""
    if by_group:
        return [f"scale{p} = Identity (scale_typed{p})"]
    return [
        f"group{p} = Constant <value_int: int = @group_size> ()",
        f"repeat{p} = Div (group{p}, block)",
        f"column{p} = Unsqueeze (scale_typed{p}, minus_one)",
        f"shape{p} = Shape (scale_typed{p})",
        f"wide_shape{p} = Concat <axis = 0> (shape{p}, repeat{p})",
        f"wide{p} = Expand (column{p}, wide_shape{p})",
        f"rows_shape{p} = Concat <axis = 0> (n1, minus_one)",
        f"rows{p} = Reshape (wide{p}, rows_shape{p})",
        f"scale{p} = Slice (rows{p}, zero, blocks, one)",
    ]


def with_rows_that_are_none(product: str) -> str:
    """Nodes that give `Y`: the product, but NaN in rows of X that hold NaN or infinity.

    ONNX Runtime's MatMulNBits rounds X to int8 at level 4, and NaN to a number like others. Offsets need no such nodes:
    the sums of X have it.
    """
    return (
        "r_axis = Constant <value_ints: ints = [-1]> ()\nr_zeros = Sub (X, X)\n"
        f"r_row = ReduceSum <keepdims = 1> (r_zeros, r_axis)\nY = Add ({product}, r_row)\n"
    )


_LAST_ROW = "o_last = Constant <value_int = -1> ()\no_row = Gather <axis = 0> (scale_values, o_last)\n"


def offset_product(row: str, calls: Calls) -> str:
    """Nodes that give `offset_sum`: sums of X over each group, times the offsets `o_row` [N, groups].

    `row` are nodes that give these.
    """
    padded = "o_padded = Identity (X)\n" if calls.whole else _PADDED
    lead = "Constant <value_ints: ints = [0, 0]> ()" if calls.sequences else "Shape <end = -1> (X)"
    return f"{_GROUP_SIZE}{padded}o_shape = {lead}\n{_GROUP_SUMS}{row}{_OFFSET_SUM}"


_GROUP_SIZE = """
o_minus_one = Constant <value_ints: ints = [-1]> ()
o_one = Constant <value_ints: ints = [1]> ()
o_zero = Constant <value_ints: ints = [0]> ()
o_k = Constant <value_int: int = @K> ()
o_group = Constant <value_int: int = @group_size> ()
o_k1 = Reshape (o_k, o_minus_one)
o_group1 = Reshape (o_group, o_minus_one)
"""
# X is padded with zeros to whole groups.
_PADDED = """o_rest = Mod (o_k1, o_group1)
o_lack = Sub (o_group1, o_rest)
o_pad = Mod (o_lack, o_group1)
o_pads = Concat <axis = 0> (o_zero, o_pad)
o_padded = Pad (X, o_pads, , o_minus_one)
"""
_GROUP_SUMS = """o_grouped_shape = Concat <axis = 0> (o_shape, o_minus_one, o_group1)
o_grouped = Reshape (o_padded, o_grouped_shape)
o_sums = ReduceSum <keepdims = 0> (o_grouped, o_minus_one)
"""
_OFFSET_SUM = """o_typed = CastLike (o_row, X)
o_transposed = Transpose <perm = [1, 0]> (o_typed)
offset_sum = MatMul (o_sums, o_transposed)
"""


def standard_body(planes: int, offset: bool) -> str:
    """Nodes from `X`, `planes` and `scale_values`, whose last row may be an offset, to `Y`."""
    lines = [
        "minus_one = Constant <value_ints: ints = [-1]> ()",
        "zero = Constant <value_ints: ints = [0]> ()",
        "one = Constant <value_ints: ints = [1]> ()",
        f"p = Constant <value_ints: ints = [{planes}]> ()",
        "n = Constant <value_int: int = @N> ()",
        "k = Constant <value_int: int = @K> ()",
        "group = Constant <value_int: int = @group_size> ()",
        "n1 = Reshape (n, minus_one)",
        "k1 = Reshape (k, minus_one)",
        "group1 = Reshape (group, minus_one)",
        "positions_wide = Constant <value_ints: ints = [0, 1, 2, 3, 4, 5, 6, 7]> ()",
        "positions = Cast <to = 2> (positions_wide)",
        "unit = Cast <to = 2> (one)",
        "bytes = Unsqueeze (planes, minus_one)",
        'shifted = BitShift <direction = "RIGHT"> (bytes, positions)',
        "bits = BitwiseAnd (shifted, unit)",
        "grouped_shape = Concat <axis = 0> (p, n1, minus_one, group1)",
        "grouped = Reshape (bits, grouped_shape)",
        "typed = CastLike (grouped, X)",
        "scales_typed = CastLike (scale_values, X)",
        "plane_scales = Slice (scales_typed, zero, p, zero)",
        "columns = Unsqueeze (plane_scales, minus_one)",
        "terms = Mul (typed, columns)",
        "plane_sum = ReduceSum <keepdims = 0> (terms, zero)",
    ]
    if offset:
        lines += [
            f"last = Constant <value_int = {planes}> ()",
            "offset = Gather <axis = 0> (scales_typed, last)",
            "offset_column = Unsqueeze (offset, minus_one)",
            "weight_groups = Add (plane_sum, offset_column)",
        ]
    else:
        lines.append("weight_groups = Identity (plane_sum)")
    lines += [
        "rows_shape = Concat <axis = 0> (n1, minus_one)",
        "rows = Reshape (weight_groups, rows_shape)",
        "weight = Slice (rows, zero, k1, one)",
        "transposed = Transpose <perm = [1, 0]> (weight)",
        "Y = MatMul (X, transposed)",
    ]
    return "\n".join(lines) + "\n"
