"""Speed of single products on the CPU, beside ONNX Runtime's MatMulNBits and a plain read of memory."""
