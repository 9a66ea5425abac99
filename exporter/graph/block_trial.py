"""Which layers' attention becomes a block: the graph is fused once without its weights, before these are computed."""

import math

import onnx_ir as ir

from dualbinary import ATTENTION
from dualbinary.files.cache_names import PAST
from dualbinary.onnx_files.blocks import fuse_blocks

__all__ = ["layers_without_block"]

_INLINE_BYTES = 1 << 10  # patterns read sizes alone; larger constants are named, as all weights are


def layers_without_block(model: ir.Model) -> list[int]:
    """Numbers of the layers with keys and values whose attention stays as nodes. The opset must be final."""
    copy = model.clone()
    for value in copy.graph.initializers.values():
        if value.const_value is None or value.const_value.nbytes > _INLINE_BYTES:
            assert value.dtype is not None and value.shape is not None
            size, name = math.ceil(math.prod(value.shape.numpy()) * value.dtype.itemsize), str(value.name)
            value.const_value = ir.ExternalTensor("weights", 0, size, value.dtype, shape=value.shape, name=name)
    proto = ir.to_proto(copy)
    fuse_blocks(proto)
    in_blocks = {name for node in proto.graph.node if node.op_type == ATTENTION.name for name in node.input}
    caches = [value.name for value in proto.graph.input if value.name.startswith(PAST)]
    return sorted({int(name.removeprefix(PAST).split(".")[0]) for name in caches if name not in in_blocks})
