"""Nodes of a decoder layer become blocks (DualBinaryMlp, DualBinaryAttention), and blocks become those nodes again.

A block carries the nodes it stands for as the body of a function of its name inside the model: where the library is
registered, its kernel runs; elsewhere ONNX Runtime puts the nodes in its place. So the function needs no text of its
own, a model with blocks computes what it did without them, and whoever looks for DualBinaryMatMul nodes in a file takes
the blocks apart first (`unfuse_blocks`).
"""

from dualbinary.onnx_files.blocks.fuse import FusedBlocks, fuse_blocks
from dualbinary.onnx_files.blocks.unfuse import has_blocks, unfuse_blocks

__all__ = ["FusedBlocks", "fuse_blocks", "has_blocks", "unfuse_blocks"]
