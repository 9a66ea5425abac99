"""The form of a weight that has no trained planes and no exact form, where nothing else is asked for.

The least bits at about the perplexity of 4 free planes with an offset, G = 64 and float16 scales (docs/log/fitting.md).
"""

import numpy as np

from dualbinary.contract.weight import PlaneFormat

__all__ = ["DEFAULT_FORM"]

DEFAULT_FORM = PlaneFormat(4, 32, offset=True, levels="even", scale_dtype=np.dtype(np.uint8))
