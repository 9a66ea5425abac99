"""Small integers out of words: the orders in which quantizers lay them there. All words are little-endian.

Every function takes an integer array of any width and packs along its last axis, unless it says otherwise.
"""

import numpy as np
import numpy.typing as npt

__all__ = ["AWQ_ORDER", "dense", "dense_words", "pack_dense", "padded", "padded_words", "planar", "stacked_rows"]

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""AWQ: slot i of eight consecutive values holds value AWQ_ORDER[i] (AutoAWQ, awq/modules/linear/gemm.py)."""

_PLANES = {
    2: (2,),
    3: (2, 1),
    4: (4,),
    5: (4, 1),
    6: (4, 2),
    7: (4, 2, 1),
    8: (8,),
}
"""Widths of the planes of GPTQ_P, low bits first (GPTQModel, utils/planar_packing.py)."""

_WORD = 32


def dense(words: npt.NDArray[np.integer], bits: int, count: int) -> npt.NDArray[np.uint8]:
    """uint8 [..., count]: value i in bits [i·bits, (i+1)·bits) of the row, the lowest first; words are no boundary."""
    octets = _octets(words)
    whole = -(-count // 8) * bits  # eight values are `bits` bytes
    if octets.shape[-1] < whole:
        octets = np.concatenate((octets, np.zeros((*octets.shape[:-1], whole - octets.shape[-1]), np.uint8)), axis=-1)
    blocks = octets[..., :whole].reshape(*octets.shape[:-1], -1, bits)
    values = np.empty((*blocks.shape[:-1], 8), np.uint8)
    for i in range(8):
        first, shift = divmod(i * bits, 8)
        value = blocks[..., first] >> np.uint8(shift)
        if shift + bits > 8:
            value |= blocks[..., first + 1] << np.uint8(8 - shift)
        values[..., i] = value & np.uint8((1 << bits) - 1)
    return values.reshape(*octets.shape[:-1], -1)[..., :count]


def dense_words(bits: int, count: int) -> int:
    """How many 32-bit words `dense` needs for `count` values."""
    return -(-count * bits // _WORD)


def pack_dense(values: npt.NDArray[np.integer], bits: int) -> npt.NDArray[np.int32]:
    """int32 [..., words] that `dense` reads as the values [..., count], each of `bits` bits."""
    digits = np.unpackbits(values.astype(np.uint8)[..., None], axis=-1, count=bits, bitorder="little")
    octets = np.packbits(digits.reshape(*values.shape[:-1], -1), axis=-1, bitorder="little")
    missing = 4 * dense_words(bits, values.shape[-1]) - octets.shape[-1]
    if missing:
        octets = np.concatenate((octets, np.zeros((*octets.shape[:-1], missing), np.uint8)), axis=-1)
    return np.ascontiguousarray(octets).view("<i4")


def padded(words: npt.NDArray[np.integer], bits: int, count: int) -> npt.NDArray[np.uint8]:
    """uint8 [..., count]: as many whole values in each 32-bit word as it holds, the lowest bits first."""
    each = _WORD // bits
    values = np.empty((*words.shape, each), np.uint8)
    unsigned = words.view(np.uint32)
    for i in range(each):
        values[..., i] = (unsigned >> np.uint32(i * bits)) & np.uint32((1 << bits) - 1)
    return values.reshape(*words.shape[:-1], -1)[..., :count]


def padded_words(bits: int, count: int) -> int:
    """How many 32-bit words `padded` needs for `count` values."""
    return -(-count // (_WORD // bits))


def planar(words: npt.NDArray[np.integer], bits: int, count: int) -> npt.NDArray[np.uint8]:
    """uint8 [..., count]: 32 values are `bits` words, which hold their low bits first, then planes of higher bits."""
    blocks = np.ascontiguousarray(words).reshape(*words.shape[:-1], -1, bits)
    values = np.zeros((*blocks.shape[:-1], _WORD), np.uint8)
    begin = 0
    for width in _PLANES[bits]:
        plane = dense(blocks[..., begin : begin + width], width, _WORD)  # a plane of w bits is w words
        values |= plane << np.uint8(begin)
        begin += width
    return values.reshape(*words.shape[:-1], -1)[..., :count]


def stacked_rows(words: npt.NDArray[np.integer], bits: int, count: int, *, first_high: bool) -> npt.NDArray[np.uint8]:
    """uint8 [count, K] from words [R, K]: field i of row r is row r + i·R.

    With `first_high` field 0 is the highest of a word, else the lowest; bits above the highest field are not used.
    """
    unsigned = words.view(f"u{words.dtype.itemsize}")
    mask = unsigned.dtype.type((1 << bits) - 1)
    starts = range(0, 8 * words.dtype.itemsize - bits + 1, bits)
    fields = [(unsigned >> unsigned.dtype.type(start)) & mask for start in starts]
    if first_high:
        fields.reverse()
    return np.concatenate(fields).astype(np.uint8, copy=False)[:count]


def _octets(words: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
    """The bytes of each row."""
    return np.ascontiguousarray(words).view(np.uint8)
