"""Graph passes: one file, one edit, its cases numbered in the docstring. `exporter.pipeline` runs them in order."""
