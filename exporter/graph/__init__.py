"""The ONNX graph: built, corrected for its architecture, rewritten by passes."""
