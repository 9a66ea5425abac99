"""Speed of single products on a GPU, beside cuBLAS, MatMulNBits and torch's int4 product."""
