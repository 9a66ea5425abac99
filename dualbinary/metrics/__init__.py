"""Statistics of quantized weights, and counts of operations."""
