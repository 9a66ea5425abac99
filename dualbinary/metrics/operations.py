"""Additions and multiplications of one token, in the binary form and in the dense layer it stands for.

A layer of N outputs, K inputs, P planes, C rows of scales and g groups a row; `ones` bits of its planes are set:

    dense     multiplications   N K
              additions         N K
    binary    multiplications   C N g                      one a scale
              additions         P N K + C N g (+ K)        one a weight and plane, and one for each product of a
                                                           scale; where there is an offset, K for the sums of the
                                                           groups' inputs, which all outputs share
              set_additions     the same with `ones` in place of P N K: a bit of 0 adds nothing

With even levels the sums of the planes of a group are joined, s0 + 2 s1 + 4 s2 + ..., before the one product with the
step: P - 1 additions, and doublings that count nowhere. C is 1, or 2 with an offset.

    even      multiplications   C N g + zeros
              additions         P N K + (P - 1) N g + C N g (+ K) + differences

    zeros and differences, where levels have a zero point other than 0 and K is added as with an offset:
              zero * sum of a group's inputs is g products where all outputs share it, and N g where each group has a
              zero point; N g differences take it from the joined sums

A basis of -1 and 1 costs as much as a plane: an addition or a subtraction for each weight, P N K in all. Biases count
nowhere. These are counts of the form, not of what a kernel does: ours looks up sums of four inputs at a time.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from dualbinary.contract.weight import PlaneFormat

__all__ = ["Operations", "operations"]


@dataclass(frozen=True)
class Operations:
    """Counts for one token, of one layer or of several together."""

    dense_multiplications: int = 0
    dense_additions: int = 0
    multiplications: int = 0
    additions: int = 0
    set_additions: int = 0

    @classmethod
    def total(cls, parts: Iterable["Operations"]) -> "Operations":
        """The sum of several layers."""
        columns = zip(*(asdict(part).values() for part in parts), strict=True)
        return cls(*(sum(column) for column in columns))

    def to_dict(self) -> dict[str, Any]:
        """The counts, for a report in JSON."""
        return asdict(self)


def operations(N: int, K: int, plane_format: PlaneFormat, ones: int) -> Operations:
    """The counts of one layer."""
    groups = plane_format.groups(K)
    scales = plane_format.scale_rows * N * groups
    has_zero = plane_format.zero != 0
    multiplications, shared = scales, scales + (K if plane_format.offset or has_zero else 0)
    if plane_format.even:
        shared += (plane_format.planes - 1) * N * groups
    if has_zero:
        multiplications += N * groups if plane_format.node_levels.group_zeros else groups
        shared += N * groups
    return Operations(N * K, N * K, multiplications, plane_format.planes * N * K + shared, ones + shared)
