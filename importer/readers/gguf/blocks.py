"""Blocks of GGUF as numbers, steps, and zero points or offsets: exactly what is stored.

A row of K weights is a row of blocks. Each decoder takes blocks uint8 [B, size] and gives q [B, weights] with the step,
and where the type has one the offset, of each group of G weights: [B, weights / G].

    w = step * (q - zero)       or       w = step * q + offset

Where a step is a product of two stored numbers (the K types) it is exact in float32: 11 bits of a float16 by at most 8.
https://github.com/ggml-org/llama.cpp/blob/master/ggml/src/ggml-common.h
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dualbinary import InputError
from importer.model import Numbers
from importer.readers.gguf import codes

__all__ = ["FORMS", "Form", "read_numbers"]

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.floating]
Decoded = tuple[Bytes, Floats, Floats | None]

_CHUNK = 1 << 21  # weights that are unpacked at a time: what a decoder makes in between is some ten bytes for each
# Of a rounding to float16. A product of a float16 and a whole number that is below the normal numbers is a multiple of
# the smallest one, and so exact: only one that is too large changes by more.
_FLOAT16_ERROR = 2.0**-11


def _half(blocks: Bytes, at: int) -> npt.NDArray[np.float16]:
    """The float16 at byte `at` of each block: [B, 1]."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2")


def _q4_0(blocks: Bytes) -> Decoded:
    return codes.halves(blocks[:, 2:]), _half(blocks, 0), None


def _q4_1(blocks: Bytes) -> Decoded:
    return codes.halves(blocks[:, 4:]), _half(blocks, 0), _half(blocks, 2)


def _q5_0(blocks: Bytes) -> Decoded:
    return codes.above(codes.halves(blocks[:, 6:]), codes.bits(blocks[:, 2:6]), 4), _half(blocks, 0), None


def _q5_1(blocks: Bytes) -> Decoded:
    return codes.above(codes.halves(blocks[:, 8:]), codes.bits(blocks[:, 4:8]), 4), _half(blocks, 0), _half(blocks, 2)


def _q8_0(blocks: Bytes) -> Decoded:
    return blocks[:, 2:] ^ np.uint8(0x80), _half(blocks, 0), None  # a signed byte plus 128


def _q1_0(blocks: Bytes) -> Decoded:
    # d or -d is 2d * (bit - 1/2); twice a float16 need not be one
    step = 2 * _half(blocks, 0).astype(np.float32)
    return codes.bits(blocks[:, 2:]), step, None


def _q2_0(blocks: Bytes) -> Decoded:
    return codes.pairs(blocks[:, 2:]), _half(blocks, 0), None


def _tq1_0(blocks: Bytes) -> Decoded:
    return codes.trits(blocks, ((0, 32, 5), (32, 48, 5), (48, 52, 4))), _half(blocks, 52), None


def _ptq1_0(blocks: Bytes) -> Decoded:
    return codes.trits(blocks, ((0, 16, 5), (16, 24, 5), (24, 26, 4))), _half(blocks, 26), None


def _tq2_0(blocks: Bytes) -> Decoded:
    return codes.planes_of_pairs(blocks[:, :64]), _half(blocks, 64), None


def _q2_k(blocks: Bytes) -> Decoded:
    scales, q = blocks[:, :16], codes.planes_of_pairs(blocks[:, 16:80])
    d, minimum = _half(blocks, 80).astype(np.float32), _half(blocks, 82).astype(np.float32)
    return q, d * (scales & 15), -(minimum * (scales >> 4))


def _q3_k(blocks: Bytes) -> Decoded:
    high = codes.planes_of_bits(blocks[:, :32])
    scales = codes.q3_k_scales(blocks[:, 96:108]).astype(np.float32) - 32
    return (
        codes.above(codes.planes_of_pairs(blocks[:, 32:96]), high, 2),
        _half(blocks, 108).astype(np.float32) * scales,
        None,
    )


def _q4_k(blocks: Bytes) -> Decoded:
    step, offset = _k_scales(blocks)
    return codes.planes_of_nibbles(blocks[:, 16:]), step, offset


def _q5_k(blocks: Bytes) -> Decoded:
    step, offset = _k_scales(blocks)
    return codes.above(codes.planes_of_nibbles(blocks[:, 48:]), codes.planes_of_bits(blocks[:, 16:48]), 4), step, offset


def _k_scales(blocks: Bytes) -> tuple[Floats, Floats]:
    d, minimum = _half(blocks, 0).astype(np.float32), _half(blocks, 2).astype(np.float32)
    scales, minimums = codes.q4_k_scales(blocks[:, 4:16])
    return d * scales, -(minimum * minimums)


def _q6_k(blocks: Bytes) -> Decoded:
    scales = np.ascontiguousarray(blocks[:, 192:208]).view(np.int8)
    q = codes.q6_k(blocks[:, :128], blocks[:, 128:192])
    return q, _half(blocks, 208).astype(np.float32) * scales, None


@dataclass(frozen=True)
class Form:
    """How a type says weights: P bits, groups of G, one zero point for all or None beside offsets."""

    bits: int
    group_size: int
    zero: float | None
    decode: Callable[[Bytes], Decoded]


FORMS = {
    "Q1_0": Form(1, 128, 0.5, _q1_0),
    "Q2_0": Form(2, 64, 1, _q2_0),
    "Q2_0 of 128": Form(2, 128, 1, _q2_0),
    "PQ2_0": Form(2, 128, 1, _q2_0),
    "PTQ1_0": Form(2, 128, 1, _ptq1_0),
    "TQ1_0": Form(2, 256, 1, _tq1_0),
    "TQ2_0": Form(2, 256, 1, _tq2_0),
    "Q4_0": Form(4, 32, 8, _q4_0),
    "Q4_1": Form(4, 32, None, _q4_1),
    "Q5_0": Form(5, 32, 16, _q5_0),
    "Q5_1": Form(5, 32, None, _q5_1),
    "Q8_0": Form(8, 32, 128, _q8_0),
    "Q2_K": Form(2, 16, None, _q2_k),
    "Q3_K": Form(3, 16, 4, _q3_k),
    "Q4_K": Form(4, 32, None, _q4_k),
    "Q5_K": Form(5, 32, None, _q5_k),
    "Q6_K": Form(6, 16, 32, _q6_k),
}
"""The types whose levels are even, by name."""


def read_numbers(form: Form, data: Bytes, N: int, K: int, weights: int, name: str) -> Numbers:
    """The numbers of a weight [N, K], from its bytes `data`; a block has `weights` of them.

    Steps and offsets that are products of two stored numbers come as float16, rounded once, if none changes by more
    than 2^-11 of itself, and else as the float32 that they are exactly. Raises InputError where one is not finite.
    """
    blocks = data.reshape(N, K // weights, -1)
    q = np.empty((N, K), np.uint8)
    steps, offsets = [], []
    rows = max(1, _CHUNK // K)
    for begin in range(0, N, rows):
        part = blocks[begin : begin + rows]
        with np.errstate(invalid="ignore"):  # what is not finite is refused below
            numbers, step, offset = form.decode(part.reshape(-1, part.shape[-1]))
        q[begin : begin + rows] = numbers.reshape(-1, K)
        steps.append(step.reshape(len(part), -1))
        if offset is not None:
            offsets.append(offset.reshape(len(part), -1))
    step = np.concatenate(steps)
    offset = np.concatenate(offsets) if offsets else None
    for what, values in (("step", step), ("offset", offset)):
        if values is not None and not np.isfinite(values).all():
            raise InputError(f"{name}: a {what} is not finite; the file is damaged")
    step, offset, rounding = _rounded(step, offset)
    return Numbers(q, step, form.zero, offset, rounding=rounding)


def _rounded(step: Floats, offset: Floats | None) -> tuple[Floats, Floats | None, float]:
    """Steps and offsets as float16 if that changes none by more than a rounding, and by how much it does."""
    given = [step] if offset is None else [step, offset]
    with np.errstate(over="ignore"):
        rounded = [values.astype(np.float16) for values in given]
    largest = max(_change(values, narrow) for values, narrow in zip(given, rounded, strict=True))
    if largest > _FLOAT16_ERROR:
        return step, offset, 0.0
    return rounded[0], rounded[1] if len(rounded) > 1 else None, largest


def _change(values: Floats, narrow: Floats) -> float:
    """The largest relative change of a value."""
    if values.dtype == narrow.dtype:
        return 0.0
    there = values != 0
    if not there.any():
        return 0.0
    exact = values[there].astype(np.float64)
    return float(np.max(np.abs(narrow[there].astype(np.float64) - exact) / np.abs(exact)))
