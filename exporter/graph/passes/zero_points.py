"""GatherBlockQuantized gets its zero points as an input.

The node's default for uint8 data is half the range of a code, 8 of 4 bits. ONNX Runtime's CPU kernel has always taken
it so; its CUDA kernel took 0 until 2026 (microsoft/onnxruntime issue 31692), which moves every row of the embedding.
With explicit zero points, all versions agree.

They are an Expand of one byte, which ONNX Runtime evaluates when it loads the model: the file does not grow.
"""

import numpy as np
import onnx_ir as ir

from exporter.graph.values import NodeBuilder, static_shape

__all__ = ["ExplicitZeroPointsPass"]

_ZERO_POINTS = 3  # index of the input
_TWO_EIGHTS = 0x88  # a byte has two codes


class ExplicitZeroPointsPass(ir.passes.InPlacePass):
    """See the module's docstring. Nodes that have zero points already, or codes of other widths, stay as they are."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass."""
        made: dict[tuple[int, ...], ir.Value] = {}  # by shape: high and low nibbles share theirs
        for node in list(model.graph):
            if node.op_type != "GatherBlockQuantized" or len(node.inputs) > _ZERO_POINTS:
                continue
            shape = static_shape(node.inputs[0])
            if shape is None or node.attributes["bits"].as_int() != 4:
                continue
            shape = (*shape[:-1], 1)  # a row of the last axis is one quantization block
            if shape not in made:
                made[shape] = _zero_points(model, node, shape)
            node.resize_inputs(_ZERO_POINTS + 1)
            node.replace_input_with(_ZERO_POINTS, made[shape])
        return ir.passes.PassResult(model, modified=bool(made))


def _zero_points(model: ir.Model, node: ir.Node, shape: tuple[int, ...]) -> ir.Value:
    build = NodeBuilder(model, node, f"{node.name}.zero_points")
    byte = build.constant("byte", np.full([1] * len(shape), _TWO_EIGHTS, np.uint8))
    result = build("Expand", byte, build.constant("shape", np.array(shape, np.int64)))
    result.type, result.shape = ir.TensorType(ir.DataType.UINT8), ir.Shape(shape)
    return result
