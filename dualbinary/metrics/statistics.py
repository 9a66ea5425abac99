"""Figures of a report about quantized weights: density, entropy, true size, error, and the paper's FLOP count.

density[p]        share of ones in plane p
entropy           - sum over codes of share * log2(share), a code being the P bits of one weight: the bits per weight
                  below which no coder of single weights gets
huffman_bits      mean length of a Huffman code of the codes
bits_per_weight   (bits of planes, padding included, + bits of scales) / weights
"""

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from dualbinary.contract.layout import unpack_planes
from dualbinary.contract.weight import PlaneWeight

__all__ = ["PAPER_RULE", "PaperFlops", "WeightStatistics", "paper_flops", "rounding_error", "weight_statistics"]

CHUNK_WEIGHTS = 1 << 20  # unpacked at a time: a byte per weight and plane

PAPER_PROMPT_TOKENS = 32  # reproduces the 423.4 GFLOPs that DB-LLM (arXiv 2402.11960) gives for LLaMA-7B
PAPER_PLANE_SHARE = 1 / 16  # of a full-precision product, for a product with a plane of ones only
PAPER_RULE = (
    f"2 FLOPs per weight and token for {PAPER_PROMPT_TOKENS} tokens; a plane counts 1/16 of that times its density; "
    "lm_head and attention count in full"
)


@dataclass(frozen=True)
class WeightStatistics:
    """Counts of one quantized weight, or the sum of several. All figures are derived from them.

    Attributes:
        weights: N * K, padding left out.
        stored_bits: of planes and scales, padding included.
        code_counts: how often each of the 2^P codes occurs; bit p of a code is the bit of plane p.
        squared_error: sum of (w - w')^2; None where the original weight is not known.
        squared_norm: sum of w^2; None where the original weight is not known.
    """

    weights: int
    stored_bits: int
    code_counts: tuple[int, ...]
    squared_error: float | None = None
    squared_norm: float | None = None

    def __add__(self, other: "WeightStatistics") -> "WeightStatistics":
        """Both weights taken as one; they must have the same number of planes."""
        return WeightStatistics(
            self.weights + other.weights,
            self.stored_bits + other.stored_bits,
            tuple(a + b for a, b in zip(self.code_counts, other.code_counts, strict=True)),
            _sum(self.squared_error, other.squared_error),
            _sum(self.squared_norm, other.squared_norm),
        )

    @property
    def ones(self) -> int:
        """Bits that are set, in all planes."""
        return sum(n * code.bit_count() for code, n in enumerate(self.code_counts))

    @property
    def density(self) -> tuple[float, ...]:
        """Share of ones in each plane."""
        planes = len(self.code_counts).bit_length() - 1
        ones = (sum(n for code, n in enumerate(self.code_counts) if code >> plane & 1) for plane in range(planes))
        return tuple(n / self.weights for n in ones)

    @property
    def entropy(self) -> float:
        """Joint entropy of the planes in bits per weight."""
        share = np.array([n for n in self.code_counts if n]) / self.weights
        return abs(float((share * np.log2(share)).sum()))

    @property
    def huffman_bits(self) -> float:
        """Bits per weight of a Huffman code; 0 where only one code occurs."""
        heap = [n for n in self.code_counts if n]
        heapq.heapify(heap)
        total = 0
        while len(heap) > 1:
            # Every merge makes all codes below it one bit longer.
            merged = heapq.heappop(heap) + heapq.heappop(heap)
            total += merged
            heapq.heappush(heap, merged)
        return total / self.weights

    @property
    def bits_per_weight(self) -> float:
        """Bits stored for each weight, with scales and padding."""
        return self.stored_bits / self.weights

    @property
    def relative_error(self) -> float | None:
        """squared_error / squared_norm; 0 for a weight of zeros, None where it is not known."""
        if self.squared_error is None or self.squared_norm is None:
            return None
        return self.squared_error / self.squared_norm if self.squared_norm else 0.0

    def to_dict(self) -> dict[str, Any]:
        """The figures, for a report in JSON."""
        return {
            "weights": self.weights,
            "bits_per_weight": self.bits_per_weight,
            "density": list(self.density),
            "entropy": self.entropy,
            "huffman_bits": self.huffman_bits,
            "relative_squared_error": self.relative_error,
        }


def weight_statistics(
    weight: PlaneWeight, *, squared_error: float | None = None, squared_norm: float | None = None
) -> WeightStatistics:
    """Count the codes of a weight in layout plain. Raises InputError if its tensors do not fit together."""
    weight.check()
    counts = np.zeros(1 << weight.format.planes, np.int64)
    for rows in _row_chunks(weight):
        bits = unpack_planes(rows.planes, weight.K)
        codes = np.zeros(bits.shape[1:], np.uint8)
        for plane, values in enumerate(bits):
            codes |= values << np.uint8(plane)
        counts += np.bincount(codes.ravel(), minlength=len(counts))
    counted = tuple(map(int, counts))
    return WeightStatistics(weight.N * weight.K, 8 * weight.nbytes, counted, squared_error, squared_norm)


def rounding_error(weight: PlaneWeight, rounded: PlaneWeight) -> tuple[float, float]:
    """Sums of (w - w')^2 and of w^2 over the values w of `weight` and w' of `rounded`, both in layout plain."""
    error = norm = 0.0
    for rows, others in zip(_row_chunks(weight), _row_chunks(rounded), strict=True):
        values = rows.dequantize()
        error += float(np.square(values - others.dequantize()).sum())
        norm += float(np.square(values).sum())
    return error, norm


def _row_chunks(weight: PlaneWeight) -> Iterator[PlaneWeight]:
    """The outputs, as many at a time as bound the memory of their unpacked bits."""
    step = max(1, CHUNK_WEIGHTS // weight.K)
    return (weight.rows(slice(start, start + step)) for start in range(0, weight.N, step))


@dataclass(frozen=True)
class PaperFlops:
    """FLOPs of a prompt by PAPER_RULE, of the full-precision model and of the quantized one; no claim about speed."""

    full: float
    quantized: float


def paper_flops(quantized: Iterable[WeightStatistics], other_weights: int, attention_width: int) -> PaperFlops:
    """Count the FLOPs that DB-LLM counts.

    `other_weights` are those of the full-precision matrix products, lm_head among them. `attention_width` is the sum
    over the layers of heads * head_dim: attention costs 2 products of tokens^2 times that.
    """
    tokens = PAPER_PROMPT_TOKENS
    attention = 2 * 2 * tokens**2 * attention_width
    full = effective = float(other_weights)
    for statistics in quantized:
        full += statistics.weights
        effective += statistics.weights * PAPER_PLANE_SHARE * sum(statistics.density)
    return PaperFlops(2 * tokens * full + attention, 2 * tokens * effective + attention)


def _sum(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a + b
