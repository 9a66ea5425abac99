"""Exported models on other versions of ONNX Runtime and Python: `python -m tools.compat`."""
