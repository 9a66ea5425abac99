"""Ablations and figures of calibration: the commands that made the numbers in docs/log."""
