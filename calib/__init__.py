"""Calibration of planes and scales with data. Not part of this release; the exporter fits them without data."""
