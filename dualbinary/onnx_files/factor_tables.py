"""Tables by which a graph reads the float16 factors of coded scales, whose bytes no operator joins."""

import numpy as np

from dualbinary.contract.schema import OP

__all__ = ["factor_tables"]


def factor_tables() -> dict[str, np.ndarray]:
    """float32 [256] by a float16's high byte: its value at low byte 0, and the step per unit of the low byte.

    Both are divided by the unit of the codes. Exact, as 11 bits are; NaN where the contract allows no factor.
    """
    high = np.arange(256)
    exponent, mantissa = high >> 2 & 31, (high & 3) << 8
    step = np.where(high >> 7, -1.0, 1.0) * np.exp2(np.maximum(exponent, 1) - 25) / OP.scale_codes["unit"]
    step[exponent == 31] = np.nan
    base = step * (mantissa + np.where(exponent > 0, 1024, 0))
    return {"factor_base": base.astype(np.float32), "factor_step": step.astype(np.float32)}
