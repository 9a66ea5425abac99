"""DualBinaryMatMul nodes of even levels become MatMulNBits nodes (stock_forms.py), for hosts that register nothing.

Where the weight has an offset, or its zero point is none that a code of that width can be, a product of its own adds
offsets: sums of X over groups, [.., groups], times a matrix [groups, N].

Scales have the type of activations; float16 ones beside float32 activations are stored as they are and cast, which a
runtime does once, when it loads the model.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from dualbinary import OP, padded_k
from dualbinary.errors import OptionError
from exporter.graph.export_graph import PlaneNode, StockNode
from exporter.graph.stock_forms import StockForm, stock_form
from exporter.graph.values import NodeBuilder, parameter, replace_value

__all__ = ["StockProductsPass"]

_DOMAIN = "com.microsoft"


class StockProductsPass(ir.passes.InPlacePass):
    """See the module's docstring. After the run, `nodes` are those given, with their stock form.

    Raises OptionError where a weight has free levels.
    """

    def __init__(
        self, nodes: Sequence[PlaneNode], dtype: ir.DataType, accuracy_level: int, op: str = "matmulnbits"
    ) -> None:
        """`dtype` is the activations' type, `op` the option's value that asks for the pass."""
        super().__init__()
        self._given, self._dtype, self._accuracy_level = nodes, dtype, accuracy_level
        self._op = op
        self.nodes: list[PlaneNode] = []

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass."""
        for node in self._given:
            if not node.plane_format.even:
                expected = (
                    f"dualbinary for {node.linears[0].module}, whose free levels are no single product of the stock "
                    "operator"
                )
                raise OptionError("op", expected, self._op, "use {op} dualbinary, or a model of even levels")
        for node in self._given:
            self.nodes.append(self._replace(model, node))
        if all(node.domain != OP.domain for node in model.graph):  # transforms of rotated inputs may be left
            model.graph.opset_imports.pop(OP.domain, None)
        return ir.passes.PassResult(model, modified=bool(self.nodes))

    def _replace(self, model: ir.Model, node: PlaneNode) -> PlaneNode:
        (operator,) = {use.node for use in node.planes.uses()}
        name, form = str(operator.name), node.plane_format
        for value in (node.planes, node.scales):
            del model.graph.initializers[str(value.name)]
        stock = stock_form(form, self._accuracy_level)
        K, N = node.linears[0].K, sum(linear.N for linear in node.linears)
        build, x = NodeBuilder(model, operator, name), operator.inputs[0]
        values: list[ir.Value] = []
        products = []
        for index, part in enumerate(stock.parts):
            prefix = name if len(stock.parts) == 1 else f"{name}.{('high', 'low')[index]}"
            inputs = [parameter(model, f"{prefix}.codes", _codes_shape(stock, N, K), ir.DataType.UINT8)]
            # A float16 step times a power of two may not be one.
            exact = part.factor == 1 and form.scale_dtype == np.float16
            stored = ir.DataType.FLOAT16 if exact else self._dtype
            inputs.append(parameter(model, f"{prefix}.scales", [N, stock.block_columns(K)], stored))
            if not stock.is_default(part):
                points = parameter(model, f"{prefix}.zero_points", [N, stock.zero_columns(K)], ir.DataType.UINT8)
                inputs.append(points)
            values += inputs
            product = build(
                "MatMulNBits", x, inputs[0], build.cast(inputs[1], self._dtype), *inputs[2:], domain=_DOMAIN,
                K=K, N=N, bits=stock.bits, block_size=stock.block_size, accuracy_level=self._accuracy_level,
            )  # fmt: skip
            products.append(product)
        if stock.centre is not None:
            groups = form.groups(K)
            offsets = parameter(model, f"{name}.offsets", [groups, N], self._dtype)
            values.append(offsets)
            products.append(build("MatMul", _group_sums(build, x, K, form.group_size), offsets))
        result = products[0]
        for product in products[1:]:
            result = build("Add", result, product)
        replace_value(model, operator.outputs[0], result)
        return replace(node, stock=StockNode(stock, tuple(values)))


def _codes_shape(stock: StockForm, N: int, K: int) -> list[int]:
    return [N, stock.block_columns(K), stock.block_size * stock.bits // 8]


def _group_sums(build: NodeBuilder, x: ir.Value | None, K: int, group_size: int) -> ir.Value:
    """Sums of X [.., K] over groups, [.., groups]; the last one may lack inputs."""
    last = build.constant("last", np.array([-1], np.int64))
    lack = padded_k(K, group_size) - K
    whole = x
    if lack:
        pads = build.constant("pads", np.array([0, lack], np.int64))
        whole = build("Pad", x, pads, None, last)
    group = build.constant("group", np.array([-1, group_size], np.int64))
    shape = build("Concat", build("Shape", x, end=-1), group, axis=0)
    return build("ReduceSum", build("Reshape", whole, shape), last, keepdims=0)
