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
from dualbinary.contract.schema import OP
from dualbinary.contract.weight import PlaneFormat

__all__ = ["PREFIX", "UnpackFunction", "unpack_function"]

PREFIX = "stored_"

_ROWS = OP.blocks["rows"]
_ALIGNMENT = OP.blocks["alignment"]
_FACTOR_BYTES = OP.scale_codes["factor_bytes"]
_END = np.iinfo(np.int64).max
_FLOAT, _FLOAT16, _INT32 = 1, 10, 6  # ONNX element types


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
    """The function for weights of this format, of any N, K and group size.

    In the texts of this module a tilde stands for PREFIX.
    """
    layout, planes, scale_rows = plane_format.layout, plane_format.planes, plane_format.scale_rows
    scale_dtype = plane_format.scale_dtype
    if not OP.layout_named(layout).blocks:
        return UnpackFunction(("planes", "scales"), "", {})
    itemsize = scale_dtype.itemsize
    used = scale_rows * _ROWS * itemsize
    ints = {
        "minus_one": [-1], "zero": [0], "one": [1], "two": [2], "three": [3], "four": [4], "end": [_END],
        "rows": [_ROWS], "line_inputs": [OP.limits["group_multiple"]], "line_bytes": [LINE_BYTES],
        "p": [planes], "c": [scale_rows], "used": [used], "item": [itemsize],
        "scale_bytes": [-(-used // _ALIGNMENT) * _ALIGNMENT], "copy": [0, 0],
    }  # fmt: skip
    lines = [f"~{name} = Constant <value_ints: ints = {value}> ()" for name, value in ints.items()]
    lines += _SIZES
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
    low, high = NIBBLE_ORDERS[layout].T
    place = np.empty(2 * LINE_BYTES, np.int64)  # of nibble [output, j] in a line: low ones first
    place[low], place[high] = np.arange(LINE_BYTES), LINE_BYTES + np.arange(LINE_BYTES)
    grid = place.reshape(_ROWS, -1)
    tables = {"even": grid[:, 0::2], "odd": grid[:, 1::2], "nibble": np.uint8(15), "shift": np.uint8(4)}
    if scale_dtype == np.uint8:
        tables["centre"] = np.uint8(OP.scale_codes["zero"])
    else:
        tables |= _float_tables(scale_dtype)
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
        f"scales = Cast <to = {_FLOAT16 if dtype == np.float16 else _FLOAT}> (~floats)",
    ]


def _float_tables(dtype: np.dtype) -> dict[str, np.ndarray]:
    """By sign and exponent: the value of the mantissa's last bit and of the bit that is not stored, in such bits.

    Exact in float32. Infinity and NaN both become NaN.
    """
    info = np.finfo(dtype)
    index = np.arange(1 << (1 + info.nexp))
    exponent, sign = index % (1 << info.nexp), np.where(index >> info.nexp, -1.0, 1.0)
    bias = (1 << (info.nexp - 1)) - 1
    steps = sign * np.exp2(np.maximum(exponent, 1) - bias - info.nmant, dtype=np.float64)
    steps[exponent == (1 << info.nexp) - 1] = np.nan
    hidden = np.where(exponent > 0, float(1 << info.nmant), 0.0)
    top_mantissas = np.array(1 << (16 - 1 - info.nexp), np.int32)  # what two bytes have below the exponent
    return {"steps": steps.astype(np.float32), "hidden_bits": hidden.astype(np.float32), "top_mantissas": top_mantissas}
