"""Calibration of planes and scales with data; and, on import, checkpoints for transformers (calib/packed)."""

from calib.packed.registration import register_when_imported

__all__: list[str] = []

register_when_imported()
