"""Bodies of the fallback function for weights of even levels, in ONNX's text form.

- `nbits_body`: the MatMulNBits nodes of stock_forms.py. In layout codes they read the stored bytes, or what
  code_nodes.py makes of them. In layout plain, for each plane a table of 256 entries turns a byte of bits into eight
  codes that have this bit alone, in its place; the codes of a weight are the OR over its planes. Zero points of groups,
  which lie behind the planes, go through the same tables. The runtime folds all of it when it loads the model.
- `standard_body`: ONNX operators alone, after scales of each plane and an offset, as free levels have them.
"""

import numpy as np

from dualbinary.contract.layout import CODES
from dualbinary.contract.weight import EACH_GROUP, PlaneFormat
from exporter.graph import free_body
from exporter.graph.code_nodes import all_codes, byte_numbers, weight_codes
from exporter.graph.free_body import offset_product, with_rows_that_are_none
from exporter.graph.stock_forms import StockForm, StockPart, stock_form
from exporter.graph.wide_product import Calls, is_wide, wide_product

__all__ = ["nbits_body", "standard_body"]

Tables = dict[str, np.ndarray]
_FLOAT, _INT32 = 1, 6


def nbits_body(form: PlaneFormat, accuracy_level: int, calls: Calls) -> tuple[str, Tables]:
    """Nodes from `X`, `planes` or `codes`, and `scale_values` to `Y`, and the tables that they read."""
    stock = stock_form(form, accuracy_level, in_function=True)
    (part,) = stock.parts
    block, in_codes = stock.block_size, form.layout == CODES
    tables: Tables = {}
    lines = [
        *_columns(form, block),
        f"blob = Constant <value_ints: ints = [{block * stock.bits // 8}]> ()",
        "codes_shape = Concat <axis = 0> (n1, minus_one, blob)",
        *_steps(form),
    ]
    weight_planes = "planes"
    if in_codes:
        lines += all_codes(form, stock, tables)
    elif form.zero == EACH_GROUP or block < form.group_size:
        weight_planes = "weight_planes"
        lines.append("weight_planes = Slice (planes, zero, block_bytes, two)")
    if in_codes:
        lines += weight_codes(form, stock)
    else:
        lines += _expanded("codes_all", weight_planes, part, stock.bits, tables)
        lines.append("number_codes = Reshape (codes_all, codes_shape)")
    wide = is_wide(stock, accuracy_level)
    lines += [*_scales(part, form.group_size // block, floats=wide), *_zero_points(part, form, stock, tables)]
    points = "" if stock.is_default(part) else ", points"
    operator = f"com.microsoft.MatMulNBits <K: int = @K, N: int = @N, bits = {stock.bits}, block_size = {block}, "
    if wide:
        lines += wide_product(f"{operator}accuracy_level = 4>", f"number_codes, block_scales{points}", block, calls)
    else:
        level = "accuracy_level: int = @accuracy_level"
        lines.append(f"product = {operator}{level}> (X, number_codes, block_scales{points})")
    if stock.centre is None:
        end = with_rows_that_are_none("product") if wide or accuracy_level else "Y = Identity (product)\n"
        return "\n".join([*lines, end]), tables
    lines += _offset_row(form, stock.centre, tables)
    return "\n".join([*lines, f"{offset_product(_ROW, calls)}Y = Add (product, offset_sum)\n"]), tables


_ROW = "o_row = Identity (offset_row)\n"


def standard_body(form: PlaneFormat) -> tuple[str, Tables]:
    """Nodes of ONNX alone from `X`, `planes` and `scale_values` to `Y`, and the tables that they read.

    They are those of free levels after a row of scales for each plane, and an offset where zero is not 0.
    """
    tables: Tables = {"powers": np.exp2(np.arange(form.planes, dtype=np.float32))[:, None, None]}
    has_offset = form.offset or form.zero != 0
    lines = [*_columns(form, form.group_size), *_steps(form)]
    lines.append(f"{'plane_steps' if has_offset else 'free_values'} = Mul (step_row, powers)")
    if has_offset:
        lines += [
            *_offset_row(form, 0.0, tables),
            "free_offset = Unsqueeze (offset_row, zero)",
            "free_values = Concat <axis = 0> (plane_steps, free_offset)",
        ]
    lines.append("free_planes = Slice (planes, zero, block_bytes, two)")
    body = free_body.standard_body(form.planes, has_offset)
    known = {line.split(" = ")[0] for line in lines}
    lines += [line for line in body.splitlines() if line.split(" = ")[0] not in known]  # sizes mean the same there
    text = "\n".join(lines).replace("(planes, minus_one)", "(free_planes, minus_one)")
    return text.replace("CastLike (scale_values, X)", "CastLike (free_values, X)") + "\n", tables


def _columns(form: PlaneFormat, block: int) -> list[str]:
    """Sizes: `blocks` and `groups` of a row, and bytes of a plane that blocks have, and whole groups."""
    lines = [
        "minus_one = Constant <value_ints: ints = [-1]> ()",
        "zero = Constant <value_ints: ints = [0]> ()",
        "one = Constant <value_ints: ints = [1]> ()",
        "two = Constant <value_ints: ints = [2]> ()",
        "n = Constant <value_int: int = @N> ()",
        "n1 = Reshape (n, minus_one)",
        "k = Constant <value_int: int = @K> ()",
        "k1 = Reshape (k, minus_one)",
        "rows_shape = Concat <axis = 0> (n1, minus_one)",
    ]
    for name, size in {"block": block, "group": form.group_size}.items():
        lines += [
            f"{name}_size = Constant <value_ints: ints = [{size}]> ()",
            f"{name}_width = Constant <value_ints: ints = [{size // 8}]> ()",
            f"{name}_less = Constant <value_ints: ints = [{size - 1}]> ()",
            f"{name}_k = Add (k1, {name}_less)",
            f"{name}s = Div ({name}_k, {name}_size)",
            f"{name}_bytes = Mul ({name}s, {name}_width)",
        ]
    return lines


def _steps(form: PlaneFormat) -> list[str]:
    """`steps`, float32 [C, N, groups], and their first row, or that alone."""
    if _by_row(form):
        return [
            "first = Constant <value_int = 0> ()",
            "given_row = Gather <axis = 0> (scale_values, first)",
            f"step_row = Cast <to = {_FLOAT}> (given_row)",
        ]
    lines = [f"given_steps = Cast <to = {_FLOAT}> (scale_values)"]
    if form.per_tensor:
        lines += ["steps_shape = Concat <axis = 0> (one, n1, one)", "steps = Expand (given_steps, steps_shape)"]
    else:
        lines.append("steps = Identity (given_steps)")
    return [*lines, "first = Constant <value_int = 0> ()", "step_row = Gather <axis = 0> (steps, first)"]


def _expanded(name: str, planes: str, part: StockPart, bits: int, tables: Tables) -> list[str]:
    """Codes `name` [N, bytes of a row, bits] of bits in `planes` [P, N, bytes of a row]."""
    lines, codes = [], ""
    for plane, shift in part.shifts.items():
        tables[f"table{shift}"] = _code_table(bits, shift)
        lines += [
            f"{name}_p{plane} = Constant <value_int = {plane}> ()",
            f"{name}_plane{plane} = Gather <axis = 0> ({planes}, {name}_p{plane})",
            f"{name}_index{plane} = Cast <to = {_INT32}> ({name}_plane{plane})",
            f"{name}_bit{plane} = Gather <axis = 0> (table{shift}, {name}_index{plane})",
        ]
        bit = f"{name}_bit{plane}"
        if codes:
            lines.append(f"{name}_or{plane} = BitwiseOr ({codes}, {bit})")
            bit = f"{name}_or{plane}"
        codes = bit
    return [*lines, f"{name} = Identity ({codes})"]


def _scales(part: StockPart, repeats: int, *, floats: bool) -> list[str]:
    """`block_scales` [N, blocks] of a part, float32 if so asked and else of the type of X, from the steps of groups."""
    lines, row = [], "step_row"
    if part.factor != 1:
        lines += [f"factor = Constant <value = float {{{part.factor}}}> ()", "row = Mul (step_row, factor)"]
        row = "row"
    if repeats > 1:
        lines += [
            f"column = Unsqueeze ({row}, minus_one)",
            f"repeats = Constant <value_ints: ints = [1, 1, {repeats}]> ()",
            "wide = Expand (column, repeats)",
            "all = Reshape (wide, rows_shape)",
            "by_block = Slice (all, zero, blocks, one)",
        ]
        row = "by_block"
    return [*lines, f"block_scales = {f'Identity ({row})' if floats else f'CastLike ({row}, X)'}"]


def _zero_points(part: StockPart, form: PlaneFormat, stock: StockForm, tables: Tables) -> list[str]:
    """`points` [N, bytes], where the part has zero points that are not MatMulNBits' default."""
    if stock.is_default(part):
        return []
    per_byte = 8 // stock.bits
    lines = [
        f"points_less = Constant <value_ints: ints = [{per_byte - 1}]> ()",
        f"per_byte = Constant <value_ints: ints = [{per_byte}]> ()",
        "points_all = Add (blocks, points_less)",
        "points_columns = Div (points_all, per_byte)",
    ]
    if part.zero_point is None:
        lines.append(f"last_byte = Constant <value_ints: ints = [{np.iinfo(np.int64).max}]> ()")
        if form.layout == CODES:
            lines.append("points_bits = Slice (codes_all, groups, last_byte, one)")
        else:
            lines.append("zero_bits = Slice (planes, group_bytes, last_byte, two)")
            lines += _expanded("points_bits", "zero_bits", part, stock.bits, tables)
        return [
            *lines,
            "points_rows = Reshape (points_bits, rows_shape)",
            "points = Slice (points_rows, zero, points_columns, one)",
        ]
    tables["point"] = np.array([[stock.packed(part.zero_point)]], np.uint8)
    return [
        *lines,
        "points_shape = Concat <axis = 0> (n1, points_columns)",
        "points = Expand (point, points_shape)",
    ]


def _offset_row(form: PlaneFormat, centre: float, tables: Tables) -> list[str]:
    """`offset_row`, float32 [N, groups]: (centre - zero) * step, plus the weight's own offset."""
    if form.zero == EACH_GROUP:
        in_codes = form.layout == CODES
        tables |= {
            "zero_digits": byte_numbers(form.planes if in_codes else 1).astype(np.float32),
            "centre": np.array(centre, np.float32),
        }
        stored, sums = "codes, groups, z_end, one", ["z_bytes = Identity (z_digits)"]
        if not in_codes:
            tables["zero_powers"] = np.exp2(np.arange(form.planes, dtype=np.float32))[:, None, None, None]
            sums = ["z_parts = Mul (z_digits, zero_powers)", "z_bytes = ReduceSum <keepdims = 0> (z_parts, zero)"]
            stored = "planes, group_bytes, z_end, two"
        return [
            f"z_end = Constant <value_ints: ints = [{np.iinfo(np.int64).max}]> ()",
            f"z_bits = Slice ({stored})",
            f"z_index = Cast <to = {_INT32}> (z_bits)",
            "z_digits = Gather <axis = 0> (zero_digits, z_index)",
            *sums,
            "z_rows = Reshape (z_bytes, rows_shape)",
            "z_groups = Slice (z_rows, zero, groups, one)",
            "z_less = Sub (centre, z_groups)",
            "offset_row = Mul (z_less, step_row)",
        ]
    lines = [
        f"less = Constant <value = float {{{centre - float(form.zero)}}}> ()",
        f"offset_{'less' if form.offset else 'row'} = Mul (step_row, less)",
    ]
    if form.offset:
        own = ["second = Constant <value_int = 1> ()"]
        if _by_row(form):
            own += [
                "given_own = Gather <axis = 0> (scale_values, second)",
                f"own_row = Cast <to = {_FLOAT}> (given_own)",
            ]
        else:
            own.append("own_row = Gather <axis = 0> (steps, second)")
        if centre == 0:
            return [*own, "offset_row = Identity (own_row)"]
        lines += [*own, "offset_row = Add (offset_less, own_row)"]
    return lines


def _by_row(form: PlaneFormat) -> bool:
    """Rows of scales are taken apart before they become float32, so that a runtime that folds it needs less memory."""
    return form.layout == CODES and not form.per_tensor


def _code_table(bits: int, shift: int) -> np.ndarray:
    """uint8 [256, bits]: eight codes that have the bits of a byte in the place `shift`, packed low bits first."""
    byte = np.arange(256, dtype=np.uint8)[:, None]
    codes = (byte >> np.arange(8, dtype=np.uint8) & 1) << shift
    per_byte = 8 // bits
    shifted = codes.reshape(256, bits, per_byte) << (bits * np.arange(per_byte))
    return shifted.sum(axis=2).astype(np.uint8)
