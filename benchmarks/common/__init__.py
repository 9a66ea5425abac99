"""Timing, records, memory and synthetic models that several benchmarks share."""

from pathlib import Path

__all__ = ["REPOSITORY"]

REPOSITORY = Path(__file__).resolve().parents[2]
"""The repository's root: commands run there, and `build/` and `out/` lie below it."""
