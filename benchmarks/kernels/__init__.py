"""Speed of single products, beside ONNX Runtime's own and a plain read of memory."""
