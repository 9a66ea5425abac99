"""Small numbers out of the bytes of a block, in the orders that GGUF's types have: uint8 [B, bytes] to [B, weights].

"Planes" here: 32 bytes hold 32 weights in their lowest bits, the next 32 weights in the bits above, and so on.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = [
    "above",
    "bits",
    "halves",
    "pairs",
    "planes_of_bits",
    "planes_of_nibbles",
    "planes_of_pairs",
    "q3_k_scales",
    "q4_k_scales",
    "q6_k",
    "trits",
]

Bytes = npt.NDArray[np.uint8]

_LINE = 32  # bytes of a plane


def _fields(values: Bytes, width: int) -> Bytes:
    """All fields of `width` bits of each byte, the lowest first: [..., bytes] to [..., 8 / width, bytes]."""
    shifts = np.arange(0, 8, width, dtype=np.uint8)[:, None]
    return values[..., None, :] >> shifts & np.uint8((1 << width) - 1)


def _joined(values: Bytes) -> Bytes:
    return values.reshape(len(values), -1)


def above(low: Bytes, high: Bytes, at: int) -> Bytes:
    """Numbers of the bits `low` and, from bit `at` up, `high`."""
    return low | high << np.uint8(at)


def bits(values: Bytes) -> Bytes:
    """One bit a weight, byte after byte, the lowest first."""
    return np.unpackbits(np.ascontiguousarray(values), axis=1, bitorder="little")


def pairs(values: Bytes) -> Bytes:
    """Two bits a weight, byte after byte, the lowest first."""
    return _joined(_fields(values, 2).swapaxes(1, 2))


def halves(values: Bytes) -> Bytes:
    """Four bits a weight: the low halves of all bytes, then their high ones."""
    return _joined(_fields(values, 4))


def planes_of_nibbles(values: Bytes) -> Bytes:
    """Four bits a weight, in planes."""
    return _joined(_fields(values.reshape(len(values), -1, _LINE), 4))


def planes_of_pairs(values: Bytes) -> Bytes:
    """Two bits a weight, in planes."""
    return _joined(_fields(values.reshape(len(values), -1, _LINE), 2))


def planes_of_bits(values: Bytes) -> Bytes:
    """One bit a weight, in planes."""
    return _joined(_fields(values, 1))


def trits(values: Bytes, sections: Sequence[tuple[int, int, int]]) -> Bytes:
    """Numbers 0, 1, 2 of bytes in sections (begin, end, digits): the first digits of all its bytes, the second, ...

    A byte is a fraction of 256 in base 3: times 3, what carries out of the byte is its first digit.
    """
    parts = []
    for begin, end, digits in sections:
        rest = values[:, begin:end].astype(np.uint16)
        for _ in range(digits):
            rest = rest * 3
            parts.append((rest >> 8).astype(np.uint8))
            rest &= 0xFF
    return np.concatenate(parts, axis=1)


def q3_k_scales(values: Bytes) -> Bytes:
    """The 16 scales of 6 bits of Q3_K: eight bytes with four bits of two scales each, four with two bits of four."""
    low = halves(values[:, :8])
    high = _joined(_fields(values[:, 8:], 2))
    return above(low, high, 4)


def q4_k_scales(values: Bytes) -> tuple[Bytes, Bytes]:
    """The 8 scales and 8 minimums of 6 bits of Q4_K and Q5_K, each [B, 8].

    The first four of each are the low six bits of bytes 0 to 3 and 4 to 7. The last four have their low halves in bytes
    8 to 11 (scales low, minimums high) and their two high bits in the top of the same bytes as the first.
    """
    first, second, low = values[:, :4], values[:, 4:8], values[:, 8:]
    halves_of_last = _fields(low, 4)
    tops = np.stack([first, second], axis=1) >> np.uint8(6)
    lasts = above(halves_of_last, tops, 4)
    six = np.uint8(63)
    return np.concatenate([first & six, lasts[:, 0]], axis=1), np.concatenate([second & six, lasts[:, 1]], axis=1)


def q6_k(low: Bytes, high: Bytes) -> Bytes:
    """The 256 numbers of Q6_K: 128 bytes with four bits, in lines of twice 32, and 64 with two, in planes."""
    nibbles = _joined(_fields(low.reshape(len(low), -1, 2 * _LINE), 4))
    return above(nibbles, planes_of_pairs(high), 4)
