"""Wheels for every system, built on one Linux machine: `python -m tools.wheels`, which `make wheels` runs."""
