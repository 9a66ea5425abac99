"""Graph passes: one file, one edit, its cases numbered in the docstring. `exporter.rewrite` runs them in order."""
