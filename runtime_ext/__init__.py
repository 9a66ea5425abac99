"""ONNX Runtime's custom-op library for DualBinaryMatMul, and the commands that run exported models.

In another program:

    options = onnxruntime.SessionOptions()
    runtime_ext.register(options)
    session = onnxruntime.InferenceSession("out.onnx", options)
"""

from runtime_ext.library import describe, library_path, register

__all__ = ["describe", "library_path", "register"]
