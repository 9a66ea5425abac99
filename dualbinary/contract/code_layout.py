"""Layout codes: the numbers q of even levels, as ONNX Runtime's MatMulNBits packs its weights.

    planes   uint8 [N, Kp/G + E, G P/8]     for each output and group the numbers of G inputs, P bits each, lowest first
    scales   as in layout plain

P is 2, 4 or 8, so that numbers do not straddle bytes. Where every group has a zero point, E rows of G numbers follow
that hold them, E = Kp/G / G rounded up; else E = 0. Without them the tensor is the operator's weight input to the byte,
so that the fallback function has nothing to unpack. Deliberately plain, as layout.py.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dualbinary.contract.levels import Levels
from dualbinary.contract.schema import padded_k
from dualbinary.errors import InputError

__all__ = ["CODE_PLANES", "code_shape", "pack_codes", "planes_in_codes", "unpack_codes"]

CODE_PLANES = (2, 4, 8)
"""P of weights that this layout stores."""


def code_shape(planes: int, n: int, k: int, group_size: int, levels: Levels) -> list[int]:
    """Dimensions of the stored planes of a weight [n, k]."""
    groups = padded_k(k, group_size) // group_size
    more = -(-groups // group_size) if levels.group_zeros else 0
    return [n, groups + more, group_size * planes // 8]


def planes_in_codes(shape: Sequence[int], group_size: int) -> int:
    """P of a tensor of that shape. Raises InputError where none fits."""
    for planes in CODE_PLANES:
        if len(shape) == 3 and shape[2] * 8 == group_size * planes:
            return planes
    sizes = " or ".join(str(group_size * planes // 8) for planes in CODE_PLANES)
    raise InputError(f"planes: expected shape [N, Kp/G, {sizes}] of numbers of 2, 4 or 8 bits, got {list(shape)}")


def pack_codes(planes: npt.NDArray[np.uint8], k: int, group_size: int, levels: Levels) -> npt.NDArray[np.uint8]:
    """Layout codes from planes [P, N, Kp/8 + Z] of layout plain."""
    P, n, _ = planes.shape
    kp = padded_k(k, group_size)
    groups = kp // group_size
    rows = [_numbers(planes[:, :, : kp // 8], kp)]
    if levels.group_zeros:
        zeros = _numbers(planes[:, :, kp // 8 :], groups)
        rows.append(np.pad(zeros, ((0, 0), (0, -groups % group_size))))
    numbers = (rows[0] if len(rows) == 1 else np.concatenate(rows, axis=1)).reshape(n, -1, 8 // P)
    packed = np.bitwise_or.reduce(numbers << (P * np.arange(8 // P, dtype=np.uint8)), axis=2)
    return packed.astype(np.uint8).reshape(code_shape(P, n, k, group_size, levels))


def unpack_codes(codes: npt.NDArray[np.uint8], k: int, group_size: int, levels: Levels) -> npt.NDArray[np.uint8]:
    """Planes [P, N, Kp/8 + Z] of layout plain. Raises InputError for a tensor of another type or shape."""
    if codes.dtype != np.uint8:
        raise InputError(f"planes: expected uint8, got {codes.dtype}")
    P = planes_in_codes(codes.shape, group_size)
    wanted = code_shape(P, codes.shape[0], k, group_size, levels)
    if list(codes.shape) != wanted:
        raise InputError(f"planes: expected shape {wanted}, got {list(codes.shape)}")
    kp = padded_k(k, group_size)
    groups = kp // group_size
    numbers = codes[..., None] >> (P * np.arange(8 // P, dtype=np.uint8)) & np.uint8((1 << P) - 1)
    numbers = numbers.reshape(len(codes), -1)
    planes = _digits(numbers[:, :kp], P)
    if levels.group_zeros:
        planes = np.concatenate([planes, _digits(numbers[:, kp : kp + groups], P)], axis=2)
    return planes


# A table may have 168 million numbers: a plane at a time is unpacked, as all of them would take a byte for each bit.


def _numbers(planes: npt.NDArray[np.uint8], count: int) -> npt.NDArray[np.uint8]:
    """The numbers [N, count] whose digits are the bits of planes [P, N, ..]."""
    numbers = np.zeros((planes.shape[1], count), np.uint8)
    for digit, plane in enumerate(planes):
        numbers |= np.unpackbits(plane, axis=1, count=count, bitorder="little") << np.uint8(digit)
    return numbers


def _digits(numbers: npt.NDArray[np.uint8], planes: int) -> npt.NDArray[np.uint8]:
    """The reverse of `_numbers`: [P, N, bytes]."""
    digits = (numbers >> np.uint8(digit) & np.uint8(1) for digit in range(planes))
    return np.stack([np.packbits(bits, axis=1, bitorder="little") for bits in digits])
