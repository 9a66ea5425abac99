"""Hosts of an export: each file of this room runs one, and `python -m tools.hosts` puts their tokens side by side."""
