"""Statistics of quantized weights, and counts of operations."""

from dualbinary.metrics.operations import Operations, operations
from dualbinary.metrics.statistics import (
    PAPER_RULE,
    PaperFlops,
    WeightStatistics,
    paper_flops,
    rounding_error,
    weight_statistics,
)

__all__ = [
    "PAPER_RULE",
    "Operations",
    "PaperFlops",
    "WeightStatistics",
    "operations",
    "paper_flops",
    "rounding_error",
    "weight_statistics",
]
