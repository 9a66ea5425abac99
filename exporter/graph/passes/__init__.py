"""Graph passes: one file, one edit, cases numbered in the docstring. `exporter.graph.rewrite` runs them in order."""
