"""MatMulNBits nodes become DequantizeLinear and a product of floats: `--op dequantizelinear`.

Where a runtime has no kernel that multiplies packed weights, as ONNX Runtime's WebAssembly, it unpacks them in a scalar
loop at every call. These nodes it unpacks once, when it loads the model, if it is told to: with the session option
`session.disable_quant_qdq` = "1" it folds DequantizeLinear of constants. A token then takes a fourth of the time, and a
weight four bytes.

The bytes of codes stay where they are: MatMulNBits packs the lowest bits first, as ONNX does. A tensor that other nodes
read too, such as a tied embedding, is declared a second time, over the same bytes. DequantizeLinear needs the zero
point of each block; weights of one shape share a tensor of the usual one.
"""

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from exporter.graph.stock_forms import pack_rows

__all__ = ["OPSET", "dequantize_products", "packed_inputs"]

OPSET = 25
"""Of ONNX, which has the types of two bits; files without them keep theirs."""

_IR_VERSION = 12
_TYPES = {2: TensorProto.UINT2, 4: TensorProto.UINT4, 8: TensorProto.UINT8}
_NUMBERS = ".numbers"  # behind the name of codes


def dequantize_products(model: onnx.ModelProto, folder: Path) -> int:
    """Replace the nodes of `model`, whose external tensors lie in `folder`. Returns how many there were."""
    products = _Products(model.graph, folder)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        nodes += products.replace(node) if node.op_type == "MatMulNBits" else [node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    products.remove_unused()
    if 2 in products.widths:
        model.ir_version = max(model.ir_version, _IR_VERSION)
        for entry in model.opset_import:
            entry.version = max(entry.version, OPSET) if entry.domain == "" else entry.version
    return len(products.widths)


def packed_inputs(graph: ir.Graph) -> dict[str, ir.Value]:
    """What MatMulNBits had of weights that nodes of `graph` dequantize, by the names that it had there.

    Codes [N, blocks, bytes] are `X.codes` or the like, their zero points [N, bytes] `X.zero_points`; uint8, and packed
    when they are read.
    """
    found = {}
    for node in graph:
        if node.op_type != "DequantizeLinear":
            continue
        numbers, _, points = (value.const_value for value in node.inputs if value is not None)
        assert numbers is not None and points is not None
        codes = str(numbers.name).removesuffix(_NUMBERS)
        zero_points = f"{codes.rpartition('.')[0]}.zero_points"
        for name, rank, pack in ((codes, 3, _packed_codes), (zero_points, 2, _packed_points)):
            shape = ir.Shape([None] * rank)
            packed = ir.LazyTensor(partial(pack, numbers, points), ir.DataType.UINT8, shape, name=name)
            found[name] = ir.Value(name=name, const_value=packed)
    return found


def _packed_codes(numbers: ir.TensorProtocol, points: ir.TensorProtocol) -> ir.Tensor[Any]:
    return ir.Tensor(np.frombuffer(numbers.tobytes(), np.uint8).reshape(*points.shape.numpy(), -1))


def _packed_points(_: ir.TensorProtocol, points: ir.TensorProtocol) -> ir.Tensor[Any]:
    return ir.Tensor(pack_rows(points.numpy().astype(np.uint8), points.dtype.bitwidth))


class _Products:
    """The nodes of a graph, replaced one by one."""

    def __init__(self, graph: onnx.GraphProto, folder: Path) -> None:
        self.widths: list[int] = []
        self._graph, self._folder = graph, folder
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}

    def replace(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """The nodes in place of `node`."""
        sizes: dict[str, Any] = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        bits, K, N, block = (int(sizes[name]) for name in ("bits", "K", "N", "block_size"))
        blocks = math.ceil(K / block)
        self.widths.append(bits)
        points = self._stored_points(node.input[3], bits, blocks) if len(node.input) > 3 else None
        inputs = [self._codes(node.input[1], bits, [N, blocks * block]), node.input[2]]
        inputs.append(self._points(node.name, bits, N, blocks, points))
        nodes, x = _padded(node, blocks * block - K)
        weight = f"{node.name}.weight"
        name = f"{node.name}.dequantize"
        # By rows, and a product with the transpose: right in any session, which the other way is not.
        nodes.append(helper.make_node("DequantizeLinear", inputs, [weight], name, axis=1, block_size=block))
        outputs = list(node.output)
        nodes.append(helper.make_node("FusedMatMul", [x, weight], outputs, node.name, domain="com.microsoft", transB=1))
        return nodes

    def remove_unused(self) -> None:
        """Take out the tensors that MatMulNBits alone had."""
        used = {name for node in self._graph.node for name in node.input}
        kept = [tensor for tensor in self._graph.initializer if tensor.name in used]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)

    def _codes(self, name: str, bits: int, shape: list[int]) -> str:
        """The codes as numbers of their own width, over the bytes that are there."""
        return self._add(f"{name}{_NUMBERS}", _TYPES[bits], shape, self._tensors[name])

    def _stored_points(self, name: str, bits: int, blocks: int) -> npt.NDArray[np.uint8] | None:
        if not name:
            return None
        packed = numpy_helper.to_array(self._tensors[name], str(self._folder))
        shifts = bits * np.arange(8 // bits, dtype=np.uint8)
        numbers = packed[:, :, None] >> shifts & np.uint8((1 << bits) - 1)
        return numbers.reshape(len(packed), -1)[:, :blocks]

    def _points(self, node: str, bits: int, N: int, blocks: int, points: npt.NDArray[np.uint8] | None) -> str:
        name = f"{node}.points"
        usual = 1 << (bits - 1)
        if points is None or (points == points[0, 0]).all():
            value = usual if points is None else int(points[0, 0])
            name = f"points.{bits}.{N}.{blocks}.{value}"
            points = np.full((N, blocks), value, np.uint8)
        if name in self._tensors:
            return name
        per_byte = 8 // bits
        flat = np.pad(points.reshape(-1), (0, -points.size % per_byte)).reshape(-1, per_byte)
        shifted = flat << (bits * np.arange(per_byte, dtype=np.uint8))
        packed = np.bitwise_or.reduce(shifted, axis=1).astype(np.uint8)
        return self._add(name, _TYPES[bits], [N, blocks], packed.tobytes())

    def _add(self, name: str, kind: int, shape: list[int], content: onnx.TensorProto | bytes) -> str:
        if name in self._tensors:
            return name
        tensor = TensorProto(name=name, data_type=kind, dims=shape)
        if isinstance(content, bytes):
            tensor.raw_data = content
        elif content.data_location == TensorProto.EXTERNAL:
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.extend(content.external_data)
        else:
            tensor.raw_data = numpy_helper.to_array(content).tobytes()
        self._tensors[name] = tensor
        self._graph.initializer.append(tensor)
        return name


def _padded(node: onnx.NodeProto, lack: int) -> tuple[list[onnx.NodeProto], str]:
    """X with zeros for the inputs that the last block lacks: the nodes for it, and its name."""
    x = node.input[0]
    if not lack:
        return [], x
    pads = helper.make_tensor(f"{node.name}.lack", TensorProto.INT64, [2], [0, lack])
    last = helper.make_tensor(f"{node.name}.last", TensorProto.INT64, [1], [-1])
    nodes = [helper.make_node("Constant", [], [each.name], value=each) for each in (pads, last)]
    padded = f"{node.name}.padded"
    return [*nodes, helper.make_node("Pad", [x, pads.name, "", last.name], [padded])], padded
