"""Hugging Face models, taken apart: the directory, the decoder's blocks, the linear layers in them."""
