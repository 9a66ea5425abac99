"""The operator's contract: its description as data, the stored layouts, the naive reference. NumPy only."""
