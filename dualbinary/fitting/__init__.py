"""Planes and scales for a weight, without data."""
