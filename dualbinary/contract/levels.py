"""What the planes of a weight mean together, and the scale that each plane then has.

    free   w = sum_p a_p b_p (+ offset)          every plane has scales: the levels of FDB and QBB, and any others
    even   w = step * (q - zero)                 q = sum_p 2^p b_p, a number of P bits
           w = step * q + offset                 or with an offset in the place of a zero point

Even levels are free levels with a_p = 2^p * step and the offset -zero * step; that is their definition, and how whoever
does not multiply fast can treat them (`free_scales`). The zero point is one number of the node, in halves of a step, or
each group has one of P bits, which is stored behind the planes.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dualbinary.contract.scale_codes import scale_values

__all__ = ["FREE", "GROUP_ZEROS", "Levels", "free_scales"]

GROUP_ZEROS = -1
"""A value of twice_zero: every group has a zero point."""


class Levels(NamedTuple):
    """The attributes `levels` and `twice_zero` of a node."""

    even: bool = False
    twice_zero: int = 0

    @property
    def group_zeros(self) -> bool:
        """Every group has a zero point."""
        return self.twice_zero == GROUP_ZEROS

    def scale_rows(self, planes: int) -> int:
        """Rows of scales without an offset."""
        return 1 if self.even else planes

    def zero_bytes(self, groups: int) -> int:
        """Z: bytes of zero points in a row of a plane."""
        return -(-groups // 8) if self.group_zeros else 0


FREE = Levels()


def free_scales(
    scales: npt.NDArray[np.generic], levels: Levels, planes: int, zeros: npt.NDArray[np.integer] | None = None
) -> npt.NDArray[np.float64]:
    """The rows [C', N or 1, Kp/G] that the formula of the operator calls a: P, or P+1 with an offset.

    Exact in float64. `scales` are of any type of the contract; `zeros` [N, Kp/G] are those of the groups, where they
    have some.
    """
    values = scale_values(scales)
    if not levels.even:
        return values
    rows = np.ldexp(values[0], np.arange(planes)[:, None, None])
    if len(values) > 1:
        return np.concatenate([rows, values[1:]])
    if levels.twice_zero == 0:
        return rows
    zero = levels.twice_zero / 2 if zeros is None else zeros.astype(np.float64)
    return np.concatenate([rows, (-zero * values[0])[None]])
