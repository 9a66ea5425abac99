"""An ONNX model file with external data: its tensors, its DualBinaryMatMul nodes, and their weights in any layout.

What a file says is checked before it is used: a model is hostile until then.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import helper, numpy_helper

from dualbinary.contract.blocked_layouts import stored_shape
from dualbinary.contract.code_layout import planes_in_codes
from dualbinary.contract.layout import CODES, check_tensors, to_plain
from dualbinary.contract.levels import Levels
from dualbinary.contract.scale_codes import BFLOAT16
from dualbinary.contract.schema import OP
from dualbinary.contract.versions import check_operator_versions
from dualbinary.contract.weight import EACH_GROUP, PlaneFormat, PlaneWeight
from dualbinary.errors import InputError
from dualbinary.onnx_files.external_data import is_plain_location

__all__ = [
    "External",
    "StoredWeight",
    "array_of",
    "external_data",
    "load_model",
    "read_chunks",
    "tensors_of",
    "weights_of",
]

_CHUNK_BYTES = 16 << 20


@dataclass(frozen=True)
class External:
    """The place of a tensor's bytes."""

    path: Path
    offset: int
    length: int


@dataclass
class StoredWeight:
    """Planes and scales, and the nodes that read them; all of these say the same about them.

    `target` is the layout to store them in. `shared` says that other nodes read them too, as they are: an embedding the
    planes of a tied head.
    """

    planes: onnx.TensorProto
    scales: onnx.TensorProto
    nodes: list[onnx.NodeProto]
    layout: str
    K: int
    N: int
    group_size: int
    levels: Levels
    domain: str
    target: str = ""
    shared: bool = False

    @property
    def name(self) -> str:
        """Its name in messages."""
        return f"node '{self.nodes[0].name}'"

    @property
    def plane_format(self) -> PlaneFormat:
        """The form of the weight. Raises InputError where the tensors' dimensions do not tell."""
        planes, scales = tuple(self.planes.dims), tuple(self.scales.dims)
        dtype, even = _dtype(self.scales), self.levels.even
        try:
            if OP.layout_named(self.layout).blocks:
                shape = stored_shape(planes, scales, dtype, self.K, self.group_size, self.levels)
                count, rows = shape.planes, shape.scale_rows
            else:
                if len(planes) != 3 or len(scales) != 3:
                    raise InputError(f"expected planes [P, N, Kp/8] and scales [C, N, Kp/G], got {planes}, {scales}")
                rows = scales[0]
                count = planes_in_codes(planes, self.group_size) if self.layout == CODES else planes[0]
            return PlaneFormat(
                count,
                self.group_size,
                rows > self.levels.scale_rows(count),
                levels="even" if even else "free",
                zero=EACH_GROUP if self.levels.group_zeros else self.levels.twice_zero / 2,
                scale_dtype=dtype,
                layout=self.layout,
                per_tensor=even and scales[1] == 1 != self.N,
            )
        except InputError as error:
            raise InputError(f"{self.name}: layout {self.layout}: {error}") from None

    def read(self, directory: Path) -> PlaneWeight:
        """The weight, in its layout. Raises InputError, naming a node, where it breaks the contract."""
        planes, scales = array_of(self.planes, directory), array_of(self.scales, directory)
        try:
            plain = to_plain(self.layout, planes, scales, self.K, self.group_size, self.levels)
        except InputError as error:
            raise InputError(f"{self.name}: layout {self.layout}: {error}") from None
        check_tensors(*plain, self.N, self.K, self.group_size, self.name, self.levels)
        return PlaneWeight(planes, scales, self.K, self.plane_format)


def load_model(path: Path) -> onnx.ModelProto:
    """The model at `path` without its external data. Raises InputError where it is none, or of a newer release."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)  # whatever the name ends in
    except DecodeError:
        raise InputError(f"{path}: not an ONNX model") from None
    if not model.graph.node:
        raise InputError(f"{path}: not an ONNX model, or one without nodes")
    check_operator_versions({entry.domain: entry.version for entry in model.opset_import}, path)
    return model


def weights_of(model: onnx.ModelProto) -> list[StoredWeight]:
    """The weights of all DualBinaryMatMul nodes in graph order. Raises InputError, naming a node, for wrong ones."""
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    weights: dict[str, StoredWeight] = {}
    inputs = [name for node in _nodes(model.graph) if not _is_ours(node) for name in node.input]
    for node in _nodes(model.graph):
        if not _is_ours(node):
            continue
        weight = _weight(node, initializers)
        known = weights.setdefault(weight.planes.name, weight)
        if known is weight:
            continue
        same = ("scales", "layout", "K", "N", "group_size", "levels", "domain")
        if any(getattr(known, field) != getattr(weight, field) for field in same):
            raise InputError(f"nodes '{known.nodes[0].name}' and '{node.name}' read the same planes differently")
        known.nodes.append(node)
    names = [tensor.name for weight in weights.values() for tensor in (weight.planes, weight.scales)]
    for weight in weights.values():
        own = weight.planes.name, weight.scales.name
        weight.shared = any(name in inputs or names.count(name) > 1 for name in own)
    return list(weights.values())


def _weight(node: onnx.NodeProto, initializers: dict[str, onnx.TensorProto]) -> StoredWeight:
    numbers = {attribute.name: attribute.default for attribute in OP.attributes}
    numbers |= {attribute.name: attribute.i for attribute in node.attribute if attribute.name in numbers}
    for attribute in OP.attributes:
        value = numbers[attribute.name]
        if value is None or (attribute.minimum is not None and value < attribute.minimum):
            raise InputError(f"node '{node.name}': attribute {attribute.name}: expected an integer, got {value}")
        if attribute.values and value not in attribute.values:
            raise InputError(
                f"node '{node.name}': attribute {attribute.name}: expected one of {list(attribute.values)}, got {value}"
            )
    multiple = OP.limits["group_multiple"]
    levels = Levels(bool(numbers["levels"]), int(numbers["twice_zero"] or 0))
    if (size := numbers["group_size"] or 0) % multiple and not (levels.even and size == OP.limits["half_group"]):
        raise InputError(
            f"node '{node.name}': attribute group_size: expected a positive multiple of {multiple}, got {size}"
        )
    tensors = [initializers.get(name) for name in node.input[1:]]
    if len(tensors) != 2 or tensors[0] is None or tensors[1] is None:
        raise InputError(f"node '{node.name}': planes and scales must be initializers of the main graph")
    layout = OP.layout(int(numbers["layout"] or 0)).name
    k, n, group_size = (int(numbers[name] or 0) for name in ("K", "N", "group_size"))
    return StoredWeight(tensors[0], tensors[1], [node], layout, k, n, group_size, levels, node.domain)


def external_data(tensor: onnx.TensorProto, directory: Path) -> External | None:
    """The place of the tensor's bytes outside of the model file; None if they are in it. Raises InputError."""
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return None
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    path = (directory / location).resolve() if is_plain_location(location) else None
    if path is None or not path.is_relative_to(directory.resolve()) or not path.is_file():
        raise InputError(f"tensor '{tensor.name}': its data file {location[:80]!a} is not beside the model")
    try:
        needed = math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        offset = int(entries.get("offset", 0))
        length = int(entries.get("length", needed))
    except (ValueError, KeyError):
        raise InputError(f"tensor '{tensor.name}': type, offset or length of its data make no sense") from None
    size = path.stat().st_size
    if offset < 0 or length < 0 or offset + length > size:
        raise InputError(
            f"tensor '{tensor.name}': needs bytes {offset} to {offset + length} of {path.name}, which has {size}"
        )
    return External(path, offset, length)


def read_chunks(external: External) -> Iterator[bytes]:
    """The bytes of a tensor, a few megabytes at a time."""
    with open(external.path, "rb") as file:
        file.seek(external.offset)
        left = external.length
        while left:
            chunk = file.read(min(left, _CHUNK_BYTES))
            if not chunk:
                raise InputError(f"{external.path}: ended while it was read")
            left -= len(chunk)
            yield chunk


def tensors_of(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Initializers of the main graph and of graphs inside nodes, and tensors that are attributes."""
    yield from _tensors_in(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from _tensors_at(node)


def _tensors_in(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        yield from _tensors_at(node)


def _tensors_at(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            yield from _tensors_in(graph)


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _nodes(inner)


def _is_ours(node: onnx.NodeProto) -> bool:
    return node.domain in OP.domain_names and node.op_type == OP.name


def _dtype(tensor: onnx.TensorProto) -> np.dtype:
    """NumPy's type of the elements; bfloat16 as the contract has it."""
    bfloat16 = tensor.data_type == onnx.TensorProto.BFLOAT16
    return BFLOAT16 if bfloat16 else helper.tensor_dtype_to_np_dtype(tensor.data_type)


def array_of(tensor: onnx.TensorProto, directory: Path) -> np.ndarray:
    """The values of a tensor; bfloat16 as its bits. Raises InputError where its data are not there."""
    external = external_data(tensor, directory)
    try:
        if external is None:
            return numpy_helper.to_array(tensor).view(_dtype(tensor))
        dtype = _dtype(tensor)
        data = b"".join(read_chunks(external))
        return np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype, copy=False).reshape(tuple(tensor.dims))
    except ValueError:
        raise InputError(f"tensor '{tensor.name}': its data has not the size of {list(tensor.dims)} elements") from None
