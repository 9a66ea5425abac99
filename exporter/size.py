"""What an export takes beside its quantized weights, before any weight is read."""

import math

import numpy as np
import onnx_ir as ir

from dualbinary.onnx_files.blocks import fuse_blocks
from dualbinary.onnx_files.data_file import ALIGNMENT, INLINE_BYTES
from dualbinary.onnx_files.same_bits import state_same_bits
from exporter.graph.export_graph import ExportGraph
from exporter.options import ExportOptions

__all__ = ["other_bytes"]

# Functions and attributes of other formats than the one that is built, at most: 12 of the product with 7 kB each, 16 of
# both kinds of blocks with 1.4 kB.
_OTHER_FORMATS = 128 << 10


def other_bytes(graph: ExportGraph, options: ExportOptions) -> int:
    """Bytes of OUT.onnx and its data file together, but for planes and scales of layers and vocabulary tables; at most.

    `graph` is one whose layers have one format, as `options` say: others have as many nodes. It gets tensors here that
    nobody can read.
    """
    quantized = {value for part in (*graph.nodes, *graph.tables) for value in part.values}
    total = _OTHER_FORMATS
    for value in graph.model.graph.initializers.values():
        assert value.shape is not None and value.dtype is not None
        size = math.ceil(math.prod(value.shape.numpy()) * value.dtype.itemsize)
        if value.const_value is not None and size < ALIGNMENT:
            continue  # a constant that stays in the graph, as it is
        if value not in quantized and size >= INLINE_BYTES:
            total += size + -size % ALIGNMENT
        if value.const_value is None and value not in quantized and size < INLINE_BYTES:
            value.const_value = ir.tensor(np.zeros(value.shape.numpy(), value.dtype.numpy()), name=value.name)
        else:
            value.const_value = _elsewhere(value, size)
    proto = ir.to_proto(graph.model)
    if options.fuses:
        fuse_blocks(proto)
    state_same_bits(proto)
    return total + proto.ByteSize()


def _elsewhere(value: ir.Value, size: int) -> ir.ExternalTensor:
    """The tensor of a value in a data file of long offsets; nobody reads it."""
    assert value.shape is not None and value.dtype is not None
    name = str(value.name)
    return ir.ExternalTensor("model.onnx.data", 1 << 40, size, value.dtype, shape=value.shape, name=name, base_dir=".")
