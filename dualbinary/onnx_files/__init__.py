"""Exported models as files: names, external data, functions inside the model, and the command `relayout`."""
