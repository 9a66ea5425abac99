"""Speed of the kernels for NVIDIA GPUs."""
