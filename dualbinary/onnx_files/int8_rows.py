"""Functions of standard operators for rows of an int8 cache: D numbers, then the four bytes of their float32 factor.

Models with an int8 cache have them between the cache and the attention node. Where a DualBinaryAttention has taken
these nodes in, its kernel does their work; they run where the library is absent, over the whole cache at each step.
ONNX has no operator that takes bytes for a float, so a factor 2^e (1 + m / 2^23) is taken apart and put together by a
table of powers of two. Factors below 2^-126 become 0.
"""

import numpy as np
import onnx
from onnx import parser

from dualbinary.contract.schema import ATTENTION, OP
from dualbinary.onnx_files.functions import check_function, constant_nodes

__all__ = ["FROM_INT8", "TO_INT8", "rows_from_int8", "rows_to_int8"]

FROM_INT8, TO_INT8 = "RowsFromInt8", "RowsToInt8"

_BYTES = ATTENTION.limits["scale_bytes"]
_FRACTION = 1 << 23  # of a float32
_BIAS = 127  # of its exponent
_NAN = 0x7FC00000
_LEVELS = 127  # the largest number of a row
_END = np.iinfo(np.int64).max


def _powers() -> np.ndarray:
    """What the exponent bits of a float32 stand for, [256]; 0 for the smallest numbers, NaN for what is none."""
    powers = np.ldexp(np.float32(1), np.arange(1, 255) - _BIAS)
    return np.concatenate([[0], powers, [np.nan]]).astype(np.float32)


_TO_INT8 = """
x = Cast <to = 1> (X)
magnitude = Abs (x)
largest = ReduceMax <keepdims = 1> (magnitude, last_axis)
nothing = Mul (x, zero)
nothing_sum = ReduceSum <keepdims = 1> (nothing, last_axis)
not_finite = IsNaN (nothing_sum)
any_factor = Div (largest, levels)
tiny = Less (any_factor, least)
special = Or (tiny, not_finite)
factor = Where (special, one, any_factor)
log = Log (factor)
log2 = Mul (log, per_octave)
octave = Floor (log2)
near = Clip (octave, lowest, highest)
near_exponent = Cast <to = 6> (near)
near_index = Add (near_exponent, bias)
near_power = Gather (powers, near_index)
twice = Mul (near_power, two)
is_below = Less (factor, near_power)
is_above = GreaterOrEqual (factor, twice)
below = Cast <to = 6> (is_below)
above = Cast <to = 6> (is_above)
lowered = Sub (near_index, below)
exponent = Add (lowered, above)
power = Gather (powers, exponent)
mantissa = Div (factor, power)
beyond_one = Sub (mantissa, one)
fraction = Mul (beyond_one, fraction_ones_float)
fraction_bits = Cast <to = 6> (fraction)
exponent_bits = Mul (exponent, fraction_ones)
usual_bits = Add (exponent_bits, fraction_bits)
number_bits = Where (tiny, zero_bits, usual_bits)
bits = Where (not_finite, nan_bits, number_bits)
shifted = Div (bits, places)
bytes = Cast <to = 3> (shifted)
divisor = Where (special, one, largest)
usual_inverse = Div (levels, divisor)
inverse = Where (special, zero, usual_inverse)
scaled = Mul (x, inverse)
rounded = Round (scaled)
kept = Where (not_finite, zero, rounded)
numbers = Cast <to = 3> (kept)
Y = Concat <axis = -1> (numbers, bytes)
"""

_FROM_INT8 = """
numbers = Slice (X, first, numbers_end, last_axis)
values = Cast <to = 1> (numbers)
signed = Slice (X, numbers_end, end, last_axis)
signed_wide = Cast <to = 6> (signed)
bytes = Mod (signed_wide, byte_values)
shifted = Mul (bytes, places)
bits = ReduceSum <keepdims = 1> (shifted, last_axis)
exponent = Div (bits, fraction_ones)
fraction_bits = Mod (bits, fraction_ones)
power = Gather (powers, exponent)
fraction = Cast <to = 1> (fraction_bits)
fraction_part = Mul (fraction, fraction_step)
mantissa = Add (fraction_part, one)
factor = Mul (power, mantissa)
floats = Mul (values, factor)
Y = Cast <to: int = @to> (floats)
"""


def rows_to_int8(opset: int) -> onnx.FunctionProto:
    """X [.., D], float32 or float16, to rows int8 [.., D + 4]; see `contract.blocks.int8_rows`."""
    constants: dict[str, np.generic | np.ndarray] = {
        "zero": np.float32(0),
        "one": np.float32(1),
        "two": np.float32(2),
        "levels": np.float32(_LEVELS),
        "least": np.float32(2.0 ** (1 - _BIAS)),
        "per_octave": np.float32(1 / np.log(2)),
        "lowest": np.float32(1 - _BIAS),
        "highest": np.float32(_BIAS),
        "bias": np.int32(_BIAS),
        "fraction_ones_float": np.float32(_FRACTION),
        "zero_bits": np.int32(0),
        "nan_bits": np.int32(_NAN),
    }
    return _function(TO_INT8, "", _TO_INT8, constants, opset)


def rows_from_int8(opset: int) -> onnx.FunctionProto:
    """Rows int8 [.., D + 4] to what they stand for, [.., D], of the element type `to`."""
    constants: dict[str, np.generic | np.ndarray] = {
        "one": np.float32(1),
        "fraction_step": np.float32(1 / _FRACTION),
        "byte_values": np.int32(256),
        "first": np.array([0]),
        "numbers_end": np.array([-_BYTES]),
        "end": np.array([_END]),
    }
    return _function(FROM_INT8, "<to>", _FROM_INT8, constants, opset)


def _function(
    name: str, attributes: str, body: str, constants: dict[str, np.generic | np.ndarray], opset: int
) -> onnx.FunctionProto:
    function = parser.parse_function(
        f'<domain: "{OP.domain}", opset_import: ["" : {opset}]>\n{name} {attributes} (X) => (Y) {{{body}}}'
    )
    shared = {
        "last_axis": np.array([-1]),
        "places": np.array([1 << 8 * i for i in range(_BYTES)], np.int32),
        "fraction_ones": np.int32(_FRACTION),
        "powers": _powers(),
    }
    nodes = [*constant_nodes({key: np.asarray(value) for key, value in (shared | constants).items()}), *function.node]
    del function.node[:]
    function.node.extend(nodes)
    check_function(function)
    return function
