"""The ONNX graph: built, adjusted to its architecture, rewritten by passes."""
