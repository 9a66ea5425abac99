"""Query, key and value go packed in one value into GroupQueryAttention where one node computes them.

1. The three are the outputs of one Split, in order: the Split goes.
2. Each has a bias added first: the biases become one, added before the Split, and the Split goes.
"""

import onnx_ir as ir

from exporter.graph.values import copy_type, parameter, static_shape

__all__ = ["PackQkvPass"]


class PackQkvPass(ir.passes.InPlacePass):
    """See the module's docstring. `joined` maps the name of a joined bias to the biases it consists of."""

    def __init__(self) -> None:
        super().__init__()
        self.joined: dict[str, tuple[str, ...]] = {}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass."""
        modified = False
        for node in list(model.graph):
            if node.op_type == "GroupQueryAttention" and self._pack(model, node):
                modified = True
        return ir.passes.PassResult(model, modified)

    def _pack(self, model: ir.Model, node: ir.Node) -> bool:
        values = node.inputs[:3]
        biases: list[ir.Value] = []
        sources: list[ir.Value] = []
        for value in values:
            producer = value.producer() if value is not None else None
            if value is None or producer is None or len(value.uses()) != 1:
                return False
            if producer.op_type == "Add" and producer.inputs[1] is not None and producer.inputs[1].is_initializer():
                biases.append(producer.inputs[1])
                value = producer.inputs[0]
            if value is not None:
                sources.append(value)
        split = sources[0].producer()
        if split is None or split.op_type != "Split" or list(split.outputs) != sources or len(biases) not in (0, 3):
            return False
        packed = split.inputs[0]
        if packed is None:
            return False
        if biases:
            packed = self._joined_bias(model, node, packed, biases)
        node.replace_input_with(0, packed)
        node.replace_input_with(1, None)
        node.replace_input_with(2, None)
        return True

    def _joined_bias(self, model: ir.Model, node: ir.Node, packed: ir.Value, biases: list[ir.Value]) -> ir.Value:
        name = f"{packed.name}.bias"
        width = sum((static_shape(bias) or (0,))[0] for bias in biases)
        joined = parameter(model, name, [width], biases[0].dtype or ir.DataType.FLOAT)
        self.joined[name] = tuple(str(bias.name) for bias in biases)
        add = ir.node("Add", [packed, joined], name=f"{name}.add")
        copy_type(packed, add.outputs[0])
        model.graph.insert_before(node, add)
        return add.outputs[0]
