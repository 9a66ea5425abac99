"""ONNX Runtime's custom-op library for DualBinaryMatMul, and the commands that run exported models.

In another program:

    options = onnxruntime.SessionOptions()
    runtime_ext.register(options)
    session = onnxruntime.InferenceSession("out.onnx", options)
"""

from runtime_ext.library import describe, genai_overlay, library_path, register

__all__ = ["describe", "genai_overlay", "library_path", "register"]
