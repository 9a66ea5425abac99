"""A weight of even levels as ONNX Runtime's own MatMulNBits holds it.

The one plan of the fallback function, which makes its tensors when a model is loaded, and of `--op matmulnbits`, which
makes them at export.

    step * (q - zero)  =  sum over parts of  factor * step * (codes - zero_point)   (+ offset)

Most weights are one part, codes = q, in the narrowest of 2, 4 and 8 bits that holds them.

1. Zero points are integers there. A zero of half a step doubles the codes, 2q and 2 zero with half the step, where that
   takes no more than the bits they have anyway, or 4. Else the rest goes into an offset.
2. At accuracy level 0 ONNX Runtime multiplies weights of 4 bits alone without unpacking them at every call: narrower
   ones are widened, and wider ones are two parts, high and low nibbles. In a function they are one part
   (wide_product.py).
3. Quantization blocks are groups, where that is a size with a fast kernel; else parts of groups.
4. An offset is a product of its own: sums of X over groups times offsets [N, groups].
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dualbinary.contract.layout import unpack_planes, unpack_zeros
from dualbinary.contract.scale_codes import scale_values
from dualbinary.contract.weight import EACH_GROUP, PlaneFormat, PlaneWeight

__all__ = ["StockForm", "StockPart", "StockTensors", "dequantize_stock", "pack_rows", "stock_form", "stock_tensors"]

WIDTHS = (2, 4, 8)
_NIBBLE = 4
# Block sizes of MatMulNBits with a fast kernel on CPUs, by bits: powers of two from the first to the second.
_BLOCK_SIZES = {2: (32, 128), 4: (16, 256), 8: (16, 256)}


@dataclass(frozen=True)
class StockPart:
    """One MatMulNBits node.

    Attributes:
        shifts: by plane of the weight, the bit of a code that it is.
        zero_point: of all codes; None where every group has one, whose bits take the same places.
        factor: of the steps.
    """

    shifts: dict[int, int]
    zero_point: int | None
    factor: float


@dataclass(frozen=True)
class StockForm:
    """The nodes for weights of one format.

    Attributes:
        bits: of a code.
        block_size: inputs of a quantization block; divides the group size.
        parts: one, or high and low nibbles.
        centre: None, or the zero of all parts together where an offset says the rest: centre * step less what zero
            takes, plus the weight's own offset.
    """

    bits: int
    block_size: int
    parts: tuple[StockPart, ...]
    centre: float | None = None

    def packed(self, zero_point: int) -> int:
        """A byte of equal zero points."""
        return sum(zero_point << shift for shift in range(0, 8, self.bits))

    def is_default(self, part: StockPart) -> bool:
        """MatMulNBits takes the part's zero point where it is given none."""
        return part.zero_point == 1 << (self.bits - 1)

    def block_columns(self, K: int) -> int:
        """Quantization blocks of a row."""
        return -(-K // self.block_size)

    def zero_columns(self, K: int) -> int:
        """Bytes of packed zero points of a row."""
        return -(-self.block_columns(K) * self.bits // 8)


def stock_form(form: PlaneFormat, accuracy_level: int, *, in_function: bool = False) -> StockForm:
    """The plan for a format of even levels, whose group size is a number.

    `in_function`: the runtime makes the tensors when it loads the model. At accuracy level 0 codes of 8 bits are whole
    then (wide_product.py), and an offset stays what is stored: zero points are 0 in place of the middle.
    """
    P, by_group = form.planes, form.zero == EACH_GROUP
    zero = 0.0 if by_group else float(form.zero)
    half = not zero.is_integer()
    doubled = half and max(_NIBBLE, _width(P)) >= P + 1
    width = _width(P + doubled)
    if width < _NIBBLE and (accuracy_level == 0 or form.group_size % _BLOCK_SIZES[width][0]):
        width = _NIBBLE
    halves = width > _NIBBLE and accuracy_level == 0 and not in_function
    bits = _NIBBLE if halves else width
    block = _block_size(form.group_size, bits)
    # A group's zero point cannot be repeated for its blocks by the table that expands planes.
    offset = form.offset or (half and not doubled) or (by_group and block < form.group_size)
    if offset and (form.offset or by_group):
        # int8 activations cost least where codes lie around their zero point.
        own = None if accuracy_level == 0 else 1 << (P - 1)
        if in_function and accuracy_level == 0 and not by_group:
            own = 0
    elif by_group or (offset and halves):
        own = None  # in halves the default of both
    else:
        own = int(np.ceil(zero * (1 + doubled)))
    parts = []
    for low in range(0, width, bits):
        shifts = {p: p + doubled - low for p in range(P) if low <= p + doubled < low + bits}
        default = 1 << (bits - 1) if offset else None
        point = default if own is None else own >> low & (1 << bits) - 1
        parts.append(StockPart(shifts, point, 2.0**low / (1 + doubled)))
    centre = sum(part.factor * (part.zero_point or 0) for part in parts) if offset else None
    return StockForm(bits, block, tuple(reversed(parts)), centre)


@dataclass(frozen=True)
class StockTensors:
    """Inputs of the nodes for one weight.

    Attributes:
        codes: by part, uint8 [N, blocks, block_size * bits / 8].
        scales: by part, float32 [N, blocks].
        zero_points: by part, uint8 [N, bytes], or None for the default.
        offsets: float32 [N, groups], or None.
        group_size: of the offsets.
    """

    codes: list[npt.NDArray[np.uint8]]
    scales: list[npt.NDArray[np.float32]]
    zero_points: list[npt.NDArray[np.uint8] | None]
    offsets: npt.NDArray[np.float32] | None
    group_size: int


def stock_tensors(weight: PlaneWeight, stock: StockForm) -> StockTensors:
    """The tensors of a weight in layout plain."""
    form, K, N = weight.format, weight.K, weight.N
    G, blocks = form.group_size, stock.block_columns(weight.K)
    bits = unpack_planes(weight.planes, K)
    bits = np.pad(bits, ((0, 0), (0, 0), (0, blocks * stock.block_size - K)))
    values = np.broadcast_to(scale_values(weight.scales), (form.scale_rows, N, form.groups(K)))
    zeros = unpack_zeros(weight.planes, K, G) if form.zero == EACH_GROUP else None
    tensors = StockTensors([], [], [], _offsets(form, stock, values, zeros), G)
    steps = np.repeat(values[0], G // stock.block_size, axis=1)[:, :blocks]
    for part in stock.parts:
        codes = np.zeros(bits.shape[1:], np.uint8)
        for plane, shift in part.shifts.items():
            codes |= bits[plane] << np.uint8(shift)
        tensors.codes.append(pack_rows(codes, stock.bits).reshape(N, blocks, -1))
        tensors.scales.append((part.factor * steps).astype(np.float32))
        if part.zero_point is None:
            assert zeros is not None
            points = np.zeros_like(zeros)
            for plane, shift in part.shifts.items():
                points |= (zeros >> np.uint8(plane) & np.uint8(1)) << np.uint8(shift)
            tensors.zero_points.append(pack_rows(points, stock.bits))
        elif stock.is_default(part):
            tensors.zero_points.append(None)
        else:
            shape = (N, stock.zero_columns(K))
            tensors.zero_points.append(np.full(shape, stock.packed(part.zero_point), np.uint8))
    return tensors


def dequantize_stock(tensors: StockTensors, stock: StockForm, K: int) -> npt.NDArray[np.float64]:
    """The weight [N, K] that the tensors stand for."""
    weight = np.zeros(0)
    for part, codes, scales, points in zip(
        stock.parts, tensors.codes, tensors.scales, tensors.zero_points, strict=True
    ):
        numbers = _unpacked(codes.reshape(len(codes), -1), stock.bits).astype(np.float64)
        blocks = codes.shape[1]
        zeros = np.full((len(codes), blocks), 1 << (stock.bits - 1))
        if points is not None:
            zeros = _unpacked(points, stock.bits)[:, :blocks]
        steps = np.repeat(scales.astype(np.float64), stock.block_size, axis=1)
        values = steps * (numbers - np.repeat(zeros, stock.block_size, axis=1))
        weight = values if part is stock.parts[0] else weight + values
    weight = weight[:, :K]
    if tensors.offsets is not None:
        group_size = tensors.group_size
        weight = weight + np.repeat(tensors.offsets.astype(np.float64), group_size, axis=1)[:, :K]
    return weight


def _offsets(
    form: PlaneFormat, stock: StockForm, values: npt.NDArray[np.float64], zeros: npt.NDArray[np.uint8] | None
) -> npt.NDArray[np.float32] | None:
    if stock.centre is None:
        return None
    zero = float(form.zero) if zeros is None else zeros
    offsets = (stock.centre - zero) * values[0]
    return (offsets + values[1] if form.offset else offsets).astype(np.float32)


def _width(bits: int) -> int:
    return next(width for width in WIDTHS if width >= bits)


def _block_size(group_size: int, bits: int) -> int:
    """The largest block with a fast kernel that divides a group."""
    size, most = _BLOCK_SIZES[bits]
    while size < most and group_size % (2 * size) == 0:
        size *= 2
    return size


def _unpacked(packed: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    """The reverse of `pack_rows`, with what fills the last byte."""
    shifts = bits * np.arange(8 // bits, dtype=np.uint8)
    return (packed[:, :, None] >> shifts & np.uint8((1 << bits) - 1)).reshape(len(packed), -1)


def pack_rows(codes: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    """Codes [N, count] of so many bits, the lowest first, as bytes of rows; zeros fill the last byte."""
    per_byte = 8 // bits
    codes = np.pad(codes, ((0, 0), (0, -codes.shape[1] % per_byte)))
    shifted = codes.reshape(len(codes), -1, per_byte) << (bits * np.arange(per_byte, dtype=np.uint8))
    return np.bitwise_or.reduce(shifted, axis=2).astype(np.uint8)
