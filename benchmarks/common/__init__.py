"""Timing, records and synthetic weights that all benchmarks share."""
