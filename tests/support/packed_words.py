"""Slow, plain packers of small integers, one value at a time: what the importer's fast readings are held against."""

import numpy as np


def dense(values, bits):
    """int32 [..., words]: the values of each row as one long number, the first in its lowest bits."""
    return _rows(
        values, lambda row: sum(int(v) << (i * bits) for i, v in enumerate(row)), -(-np.shape(values)[-1] * bits // 32)
    )


def padded(values, bits):
    """int32 [..., words]: as many whole values in a word as fit."""
    each = 32 // bits
    count = np.shape(values)[-1]

    def number(row):
        return sum(int(v) << (i // each * 32 + i % each * bits) for i, v in enumerate(row))

    return _rows(values, number, -(-count // each))


def planar(values, bits):
    """int32 [..., words]: GPTQ_P, 32 values in `bits` words; a value's bits 0 to 3, or 0 and 1, then the others."""
    widths = {2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1), 8: (8,)}[bits]

    def number(row):
        total = 0
        for i, value in enumerate(row):
            block, place, low = i // 32 * 32 * bits, i % 32, 0
            for width in widths:
                part = int(value) >> low & ((1 << width) - 1)
                total |= part << (block + low * 32 + place * width)
                low += width
        return total

    return _rows(values, number, np.shape(values)[-1] * bits // 32)


def awq(values, bits):
    """int32 [..., words]: AWQ's order, slot i of eight values holds value 0, 2, 4, 6, 1, 3, 5, 7."""
    values = np.asarray(values)
    order = [block + slot for block in range(0, values.shape[-1], 8) for slot in (0, 2, 4, 6, 1, 3, 5, 7)]
    return dense(values[..., order], bits)


def stacked_rows(values, bits, dtype, first_high):
    """[R, K] of `dtype`: the first R rows in the first field of each word, then the next R rows."""
    values = np.asarray(values)
    each = np.dtype(dtype).itemsize * 8 // bits
    rows = -(-len(values) // each)
    words = np.zeros((rows, values.shape[1]), np.int64)
    for n, row in enumerate(values):
        field = n // rows
        words[n % rows] |= row.astype(np.int64) << bits * (each - 1 - field if first_high else field)
    return words.astype(dtype)


def _rows(values, number, words):
    values = np.asarray(values)
    flat = values.reshape(-1, values.shape[-1])
    data = b"".join(number(row).to_bytes(4 * words, "little") for row in flat)
    return np.frombuffer(data, "<i4").reshape(*values.shape[:-1], words).copy()
