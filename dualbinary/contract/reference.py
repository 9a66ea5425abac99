"""DualBinaryMatMul, naive: the definition of "correct" for every kernel, the fallback function and the exporter.

    Y[..,n] = sum_g ( sum_p a[p,n,g] * sum_{k in g} planes[p,n,k] * X[..,k] )
              + sum_g a[P,n,g] * sum_{k in g} X[..,k]                               only where there is a row P

with a = scales for free levels, and what levels.py makes of them for even ones.

NaN and infinity follow this formula with IEEE rules and with "0 * x" left out, not computed: an input that no plane
selects does not reach the sum of that plane. The offset row selects every input.
"""

import numpy as np
import numpy.typing as npt

from dualbinary.contract.layout import check_tensors, unpack_planes, unpack_zeros
from dualbinary.contract.levels import FREE, Levels, free_scales
from dualbinary.contract.schema import padded_k

__all__ = ["dual_binary_matmul"]


def dual_binary_matmul(
    x: npt.NDArray[np.floating],
    planes: npt.NDArray[np.uint8],
    scales: npt.NDArray[np.generic],
    *,
    K: int,
    N: int,
    group_size: int,
    levels: Levels = FREE,
) -> npt.NDArray[np.float64]:
    """Return Y [.., N] in float64 for X [.., K], layout 1 planes [P, N, Kp/8 + Z] and scales [C, N, Kp/G].

    Scales may have any type of the contract. The result is not rounded to the type of X, so that a caller can measure
    against it. Raises InputError where a tensor does not fit the contract.
    """
    check_tensors(planes, scales, N, K, group_size, levels=levels)
    bits = unpack_planes(planes, K).astype(bool)  # [P, N, K]
    rows = np.asarray(x, np.float64).reshape(-1, K)
    y = np.zeros((len(rows), N))
    ones = np.ones((1, N, K), bool)
    groups = padded_k(K, group_size) // group_size
    zeros = unpack_zeros(planes, K, group_size) if levels.group_zeros else None
    rows_of_scales = free_scales(scales, levels, len(bits), zeros)
    selectors = np.concatenate([bits, ones]) if len(rows_of_scales) > len(bits) else bits  # [P or P+1, N, K]
    with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinity are answers here
        for selector, scale in zip(selectors, rows_of_scales, strict=True):
            for group in range(groups):
                inputs = slice(group * group_size, (group + 1) * group_size)  # of the last group, what there is
                for m, row in enumerate(rows):
                    # where(), not a product: 0 * inf would be NaN although the input is not selected.
                    partial = np.where(selector[:, inputs], row[inputs], 0.0).sum(axis=1)  # [N]
                    y[m] += scale[:, group] * partial
    return y.reshape(*x.shape[:-1], N)
