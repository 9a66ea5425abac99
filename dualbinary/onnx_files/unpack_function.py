"""ONNX operators that unpack a blocked layout into planes and scales of layout plain.

The fallback function of a model (exporter/graph/fallback_function.py) computes with `planes` and `scales` of layout
plain. For a blocked layout its inputs are `stored_planes` and `stored_scales`, and the nodes described here come first
and produce `planes` and `scales`. So a model changes its layout by a change of these nodes alone. All values of theirs
but those two have names that start with "stored_". Every operation is exact.

A runtime folds these nodes when it loads the model: a blocked layout is a permutation of nibbles, and scales are put
together from their bytes. This module holds text and arrays; functions.py makes nodes of them, which needs onnx.
"""

from dataclasses import dataclass

import numpy as np

from dualbinary.contract.blocked_layouts import LINE_BYTES, NIBBLE_ORDERS
from dualbinary.contract.scale_codes import dtype_name
from dualbinary.contract.schema import OP
from dualbinary.contract.weight import PlaneFormat

__all__ = ["PREFIX", "UnpackFunction", "unpack_function"]

PREFIX = "stored_"

_ROWS = OP.blocks["rows"]
_ALIGNMENT = OP.blocks["alignment"]
_FACTOR_BYTES = OP.scale_codes["factor_bytes"]
_END = np.iinfo(np.int64).max
_FLOAT, _INT32 = 1, 6  # ONNX element types
_ELEMENT_TYPES = {"float32": _FLOAT, "float16": 10, "bfloat16": 16}
_EXPONENT_BITS = {"float32": 8, "float16": 5, "bfloat16": 8}


@dataclass(frozen=True)
class UnpackFunction:
    """A function from stored tensors to planes and scales of layout plain.

    Attributes:
        inputs: names of the stored planes and scales.
        text: nodes in ONNX's text form; none for layout plain.
        tables: constants that the nodes use, by name.
    """

    inputs: tuple[str, str]
    text: str
    tables: dict[str, np.ndarray]


def unpack_function(plane_format: PlaneFormat) -> UnpackFunction:
    """The function for weights of this format, of any N, K and group size; but 16 is another function's.

    In the texts of this module a tilde stands for PREFIX.
    """
    layout, planes, scale_rows = plane_format.layout, plane_format.planes, plane_format.scale_rows
    scale_dtype, group_zeros = plane_format.scale_dtype, plane_format.node_levels.group_zeros
    halves = 2 if plane_format.group_size == OP.limits["half_group"] else 1
    if not OP.layout_named(layout).blocks:
        return UnpackFunction(("planes", "scales"), "", {})
    itemsize = scale_dtype.itemsize
    used = halves * scale_rows * _ROWS * itemsize
    used_zeros = halves * _ROWS * group_zeros
    ints = {
        "minus_one": [-1], "zero": [0], "one": [1], "two": [2], "three": [3], "four": [4], "end": [_END],
        "rows": [_ROWS], "line_inputs": [OP.limits["group_multiple"]], "line_bytes": [LINE_BYTES],
        "p": [planes], "c": [scale_rows], "used": [used], "item": [itemsize],
        "scale_bytes": [-(-(used + used_zeros) // _ALIGNMENT) * _ALIGNMENT], "copy": [0, 0],
    }  # fmt: skip
    lines = [f"~{name} = Constant <value_ints: ints = {value}> ()" for name, value in ints.items()]
    lines += _SIZES if halves == 1 else _pair_sizes(plane_format.group_size)
    body = "~planes"
    if scale_dtype == np.uint8:
        factors = scale_rows * _ROWS * _FACTOR_BYTES
        lines += [
            f"~factor_end = Constant <value_ints: ints = [{factors}]> ()",
            f"~factor_skip = Constant <value_ints: ints = [{-(-factors // _ALIGNMENT) * _ALIGNMENT}]> ()",
            "~all_groups = Slice (~planes, ~factor_skip, ~end, ~one)",
        ]
        body = "~all_groups"
    lines += [f"~groups = Reshape ({body}, ~groups_shape)", *_PLANES, *_SCALE_BYTES]
    lines += _CODES if scale_dtype == np.uint8 else _float_scales(scale_dtype)
    head = _FACTOR_BYTES if scale_dtype == np.uint8 else 0
    if halves > 1:
        lines = [_PAIR_SCALES if line.startswith("~scale_shape ") else line for line in lines]
        lines = _without_pairs(lines, head)
    if group_zeros:
        lines = _with_zero_points(lines, used, used + used_zeros, head)
    low, high = NIBBLE_ORDERS[layout].T
    place = np.empty(2 * LINE_BYTES, np.int64)  # of nibble [output, j] in a line: low ones first
    place[low], place[high] = np.arange(LINE_BYTES), LINE_BYTES + np.arange(LINE_BYTES)
    grid = place.reshape(_ROWS, -1)
    tables = {"even": grid[:, 0::2], "odd": grid[:, 1::2], "nibble": np.uint8(15), "shift": np.uint8(4)}
    if scale_dtype == np.uint8:
        tables["centre"] = np.uint8(OP.scale_codes["zero"])
    else:
        tables |= _float_tables(scale_dtype)
    if group_zeros:
        tables |= {"positions": np.arange(8, dtype=np.uint8), "digit": np.uint8(1)}
        tables["digits"] = np.arange(planes, dtype=np.uint8)[:, None, None, None]
    return UnpackFunction(
        (f"{PREFIX}planes", f"{PREFIX}scales"),
        "\n".join(lines).replace("~", PREFIX) + "\n",
        {f"{PREFIX}{name}": np.asarray(value) for name, value in tables.items()},
    )


# Groups per output block and segments per group. Lines of a segment are 4, 3, 2 or 1, the largest that divides a group.
_SIZES = [
    "~n_all = Constant <value_int: int = @N> ()",
    "~n = Reshape (~n_all, ~minus_one)",
    "~n_up = Add (~n, ~rows)",
    "~n_up1 = Sub (~n_up, ~one)",
    "~blocks = Div (~n_up1, ~rows)",
    "~n_padded = Mul (~blocks, ~rows)",
    "~group_all = Constant <value_int: int = @group_size> ()",
    "~group_inputs = Reshape (~group_all, ~minus_one)",
    "~group_lines = Div (~group_inputs, ~line_inputs)",
    "~rest4 = Mod (~group_lines, ~four)",
    "~rest3 = Mod (~group_lines, ~three)",
    "~rest2 = Mod (~group_lines, ~two)",
    "~by4 = Equal (~rest4, ~zero)",
    "~by3 = Equal (~rest3, ~zero)",
    "~by2 = Equal (~rest2, ~zero)",
    "~least = Where (~by2, ~two, ~one)",
    "~less = Where (~by3, ~three, ~least)",
    "~lines = Where (~by4, ~four, ~less)",
    "~segments = Div (~group_lines, ~lines)",
    "~plane_lines = Mul (~group_lines, ~p)",
    "~plane_bytes = Mul (~plane_lines, ~line_bytes)",
    "~group_bytes = Add (~plane_bytes, ~scale_bytes)",
    "~groups_shape = Concat <axis = 0> (~zero, ~minus_one, ~group_bytes)",
    "~lines_shape = Concat <axis = 0> (~copy, ~segments, ~p, ~lines, ~line_bytes)",
    "~planes_shape = Concat <axis = 0> (~p, ~n_padded, ~minus_one)",
    "~rows_shape = Concat <axis = 0> (~c, ~n_padded, ~minus_one)",
]


def _pair_sizes(group_size: int) -> list[str]:
    """The same where two groups are stored as one: sizes of such a pair, and groups and bytes of a row."""
    pair = f"~group_inputs = Constant <value_ints: ints = [{2 * group_size}]> ()"
    return [
        *(pair if line.startswith("~group_inputs ") else line for line in _SIZES),
        "~k_all = Constant <value_int: int = @K> ()",
        "~k = Reshape (~k_all, ~minus_one)",
        f"~half_inputs = Constant <value_ints: ints = [{group_size}]> ()",
        f"~half_bytes = Constant <value_ints: ints = [{group_size // 8}]> ()",
        "~k_up = Add (~k, ~half_inputs)",
        "~k_up1 = Sub (~k_up, ~one)",
        "~own_groups = Div (~k_up1, ~half_inputs)",
        "~own_bytes = Mul (~own_groups, ~half_bytes)",
    ]


def _without_pairs(lines: list[str], head: int) -> list[str]:
    """Lines that cut the last group off `planes` and `scales` where it is a pair's other half alone.

    `head` columns are in front of the scales.
    """
    return [
        *_renamed(_renamed(lines, "planes", "~pair_planes"), "scales", "~pair_scales"),
        "planes = Slice (~pair_planes, ~zero, ~own_bytes, ~two)",
        f"~head = Constant <value_ints: ints = [{head}]> ()",
        "~own_columns = Add (~own_groups, ~head)",
        "scales = Slice (~pair_scales, ~zero, ~own_columns, ~two)",
    ]


def _with_zero_points(lines: list[str], begin: int, end: int, head: int) -> list[str]:
    """Lines that put zero points behind the rows of `planes`: bytes `begin` to `end` of a group, one for each output.

    Digit p of eight of them is a byte behind plane p.
    """
    return [
        *_renamed(lines, "planes", "~weight_planes"),
        f"~zeros_begin = Constant <value_ints: ints = [{begin}]> ()",
        f"~zeros_end = Constant <value_ints: ints = [{end}]> ()",
        "~zeros_part = Slice (~groups, ~zeros_begin, ~zeros_end, ~two)",
        "~zeros_shape = Concat <axis = 0> (~zero, ~minus_one, ~rows)",
        "~zeros_units = Reshape (~zeros_part, ~zeros_shape)",  # [B, groups, 32]
        "~zeros_by_row = Transpose <perm = [0, 2, 1]> (~zeros_units)",
        "~zeros_rows_shape = Concat <axis = 0> (~n_padded, ~minus_one)",
        "~zeros_padded = Reshape (~zeros_by_row, ~zeros_rows_shape)",
        "~zeros_all = Slice (~zeros_padded, ~zero, ~n, ~zero)",
        "~scale_columns = Shape <start = 2, end = 3> (scales)",
        f"~not_groups = Constant <value_ints: ints = [{head}]> ()",
        "~group_count = Sub (~scale_columns, ~not_groups)",
        "~zeros = Slice (~zeros_all, ~zero, ~group_count, ~one)",
        "~eight = Constant <value_ints: ints = [8]> ()",
        "~zeros_rest = Mod (~group_count, ~eight)",
        "~zeros_more = Sub (~eight, ~zeros_rest)",
        "~zeros_lack = Mod (~zeros_more, ~eight)",
        "~zeros_pads = Concat <axis = 0> (~zero, ~zeros_lack)",
        "~zeros_int = Cast <to = 6> (~zeros)",
        "~zeros_whole = Pad (~zeros_int, ~zeros_pads, , ~one)",
        "~zeros_bytes = Cast <to = 2> (~zeros_whole)",
        "~zeros_eights_shape = Concat <axis = 0> (~n, ~minus_one, ~eight)",
        "~zeros_eights = Reshape (~zeros_bytes, ~zeros_eights_shape)",
        '~zeros_shifted = BitShift <direction = "RIGHT"> (~zeros_eights, ~digits)',
        "~zeros_digits = BitwiseAnd (~zeros_shifted, ~digit)",
        '~zeros_placed = BitShift <direction = "LEFT"> (~zeros_digits, ~positions)',
        "~zeros_wide = Cast <to = 6> (~zeros_placed)",
        "~zeros_sum = ReduceSum <keepdims = 0> (~zeros_wide, ~minus_one)",
        "~zeros_planes = Cast <to = 2> (~zeros_sum)",
        "planes = Concat <axis = 2> (~weight_planes, ~zeros_planes)",
    ]


def _renamed(lines: list[str], name: str, new: str) -> list[str]:
    """The lines with another name for the value `name`, which is the last that they make."""
    return [f"{new} = {line.partition(' = ')[2]}" if line.startswith(f"{name} = ") else line for line in lines]


# From [B, groups, bytes] over lines [B, groups, segments, P, lines, 128] to planes [P, N, Kp/8].
_PLANES = [
    "~line_part = Slice (~groups, ~scale_bytes, ~end, ~two)",
    "~packed = Reshape (~line_part, ~lines_shape)",
    "~low = BitwiseAnd (~packed, ~nibble)",
    '~high = BitShift <direction = "RIGHT"> (~packed, ~shift)',
    "~nibbles = Concat <axis = -1> (~low, ~high)",
    "~low_halves = Gather <axis = -1> (~nibbles, ~even)",
    "~high_nibbles = Gather <axis = -1> (~nibbles, ~odd)",
    '~high_halves = BitShift <direction = "LEFT"> (~high_nibbles, ~shift)',
    "~bytes = BitwiseOr (~low_halves, ~high_halves)",
    "~by_plane = Transpose <perm = [3, 0, 5, 1, 2, 4, 6]> (~bytes)",
    "~padded_planes = Reshape (~by_plane, ~planes_shape)",
    "planes = Slice (~padded_planes, ~zero, ~n, ~one)",
]

# Bytes of the scales [B, groups, C, 32, bytes per scale].
_SCALE_BYTES = [
    "~scale_part = Slice (~groups, ~zero, ~used, ~two)",
    "~scale_shape = Concat <axis = 0> (~copy, ~c, ~rows, ~item)",
    "~scale_all_bytes = Reshape (~scale_part, ~scale_shape)",
]
# The two groups of a pair follow one another, so that this gives all groups in order.
_PAIR_SCALES = "~scale_shape = Concat <axis = 0> (~zero, ~minus_one, ~c, ~rows, ~item)"

_CODES = [
    "~signed = Transpose <perm = [2, 0, 3, 1, 4]> (~scale_all_bytes)",
    "~signed_rows = Reshape (~signed, ~rows_shape)",
    "~codes = BitwiseXor (~signed_rows, ~centre)",
    "~factor_part = Slice (~planes, ~zero, ~factor_end, ~one)",
    "~factor_shape = Concat <axis = 0> (~minus_one, ~c, ~rows, ~two)",
    "~factor_bytes = Reshape (~factor_part, ~factor_shape)",
    "~factors = Transpose <perm = [1, 0, 2, 3]> (~factor_bytes)",
    "~factor_rows = Reshape (~factors, ~rows_shape)",
    "~padded_scales = Concat <axis = 2> (~factor_rows, ~codes)",
    "scales = Slice (~padded_scales, ~zero, ~n, ~one)",
]


def _float_scales(dtype: np.dtype) -> list[str]:
    """Scales of an IEEE type from their bytes, lowest first: (hidden + mantissa) * step by sign and exponent."""
    size = dtype.itemsize
    lines = [f"~base = Constant <value_ints: ints = [{256}]> ()", f"~base4 = Cast <to = {_INT32}> (~base)"]
    for index in range(size):
        lines += [
            f"~at{index} = Constant <value_int = {index}> ()",
            f"~byte{index} = Gather <axis = -1> (~scale_all_bytes, ~at{index})",
            f"~int{index} = Cast <to = {_INT32}> (~byte{index})",
        ]
    lines += [
        f"~top_wide = Mul (~int{size - 1}, ~base4)",
        f"~top = Add (~top_wide, ~int{size - 2})",
        "~exponent = Div (~top, ~top_mantissas)",
        f"~mantissa{size - 2} = Mod (~top, ~top_mantissas)",
    ]
    for index in range(size - 3, -1, -1):
        lines += [
            f"~wide{index} = Mul (~mantissa{index + 1}, ~base4)",
            f"~mantissa{index} = Add (~wide{index}, ~int{index})",
        ]
    return [
        *lines,
        f"~mantissa = Cast <to = {_FLOAT}> (~mantissa0)",
        "~hidden = Gather <axis = 0> (~hidden_bits, ~exponent)",
        "~step = Gather <axis = 0> (~steps, ~exponent)",
        "~significand = Add (~hidden, ~mantissa)",
        "~values = Mul (~significand, ~step)",
        "~by_row = Transpose <perm = [2, 0, 3, 1]> (~values)",
        "~padded_floats = Reshape (~by_row, ~rows_shape)",
        "~floats = Slice (~padded_floats, ~zero, ~n, ~one)",
        f"scales = Cast <to = {_ELEMENT_TYPES[dtype_name(dtype)]}> (~floats)",
    ]


def _float_tables(dtype: np.dtype) -> dict[str, np.ndarray]:
    """By sign and exponent: the value of the mantissa's last bit and of the bit that is not stored, in such bits.

    Exact in float32. Infinity and NaN both become NaN.
    """
    nexp = _EXPONENT_BITS[dtype_name(dtype)]
    nmant = 8 * dtype.itemsize - 1 - nexp
    index = np.arange(1 << (1 + nexp))
    exponent, sign = index % (1 << nexp), np.where(index >> nexp, -1.0, 1.0)
    bias = (1 << (nexp - 1)) - 1
    steps = sign * np.exp2(np.maximum(exponent, 1) - bias - nmant, dtype=np.float64)
    steps[exponent == (1 << nexp) - 1] = np.nan
    hidden = np.where(exponent > 0, float(1 << nmant), 0.0)
    top_mantissas = np.array(1 << (16 - 1 - nexp), np.int32)  # what two bytes have below the exponent
    return {"steps": steps.astype(np.float32), "hidden_bits": hidden.astype(np.float32), "top_mantissas": top_mantissas}
