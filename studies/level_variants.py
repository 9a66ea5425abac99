"""Variants of an exported model: a product at accuracy level 4, a layer's cache as int8, products beside themselves.

All change the graph alone and read the same data file. Products of blocks have their level in an attribute of the block
(`down_accuracy_level`), those outside in their own; a layer's cache has its type by inputs and outputs of the graph.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

import runtime_ext
from dualbinary import InputError
from dualbinary.contract.schema import ATTENTION, MLP, OP
from dualbinary.files.cache_names import PAST, present_name
from dualbinary.onnx_files.blocks import unfuse_blocks

__all__ = ["Model", "Product", "Twin"]

_LEVEL = "accuracy_level"
_PLANES = ".planes"
_FOLDER = "session.model_external_initializers_file_folder_path"
_EXTRA = ATTENTION.limits["scale_bytes"]


@dataclass(frozen=True)
class Product:
    """A product of the model: its name, and where its level stands."""

    name: str
    node: int
    attribute: str


@dataclass(frozen=True)
class Twin:
    """A product at both levels in one graph: outputs with a number for each token, [1, S, 1] or [S, 1]."""

    name: str
    difference: str  # sum of squares of the difference of both products
    exact: str  # sum of squares of the exact one
    largest: str  # largest magnitude of an input
    power: str  # mean square of the inputs


class Model:
    """An exported file; `session` opens it with some of it changed. Raises InputError where it does not fit."""

    def __init__(self, path: Path, threads: int = 0) -> None:
        self._folder, self._threads = path.parent, threads
        self._proto = onnx.load(str(path), load_external_data=False)
        if not any(_is_ours(node) for node in self._proto.graph.node):
            raise InputError(f"{path}: no operator of this project is in there; export with --op dualbinary")
        dims = self._proto.graph.output[0].type.tensor_type.shape.dim
        if self._proto.graph.output[0].name != "logits" or not dims[1].dim_param:
            raise InputError(f"{path}: gives the logits of the last token alone; export with --logits all")
        self.products = list(self._products())
        levels = {each.name: _level(self._proto.graph.node[each.node], each.attribute) for each in self.products}
        if coarse := [name for name, level in levels.items() if level]:
            raise InputError(f"{path}: {coarse[0]} has accuracy level 4 already; export with --accuracy-level 0")
        self.caches = [index for index, node in self._attention()]

    def _products(self) -> Iterator[Product]:
        for index, node in enumerate(self._proto.graph.node):
            if not _is_ours(node):
                continue
            if node.op_type == OP.name:
                yield Product(node.input[1].removesuffix(_PLANES), index, _LEVEL)
                continue
            operator = MLP if node.op_type == MLP.name else ATTENTION
            names = [value.name for value in operator.inputs]
            for prefix in operator.products:
                planes = names.index(f"{prefix}_planes")
                if planes < len(node.input) and node.input[planes]:
                    yield Product(node.input[planes].removesuffix(_PLANES), index, f"{prefix}_{_LEVEL}")

    def _attention(self) -> Iterator[tuple[int, onnx.NodeProto]]:
        """Layers whose attention is a block, and the block."""
        for node in self._proto.graph.node:
            if _is_ours(node) and node.op_type == ATTENTION.name:
                yield int(node.input[1].removeprefix(PAST).partition(".")[0]), node

    def session(self, coarse: Collection[Product] = (), int8: Collection[int] = ()) -> ort.InferenceSession:
        """The model with some products at level 4, and the caches of some layers as int8."""
        proto = self._copy()
        for product in coarse:
            _set_level(proto.graph.node[product.node], product.attribute)
        for layer in int8:
            for kind in ("key", "value"):
                past = f"{PAST}{layer}.{kind}"
                for value in (*proto.graph.input, *proto.graph.output):
                    if value.name in (past, present_name(past)):
                        value.type.tensor_type.elem_type = TensorProto.INT8
                        value.type.tensor_type.shape.dim[3].dim_value += _EXTRA
        if int8:  # functions of blocks have caches of floats
            kept = [each for each in proto.functions if each.name not in (MLP.name, ATTENTION.name)]
            del proto.functions[:], proto.graph.value_info[:]
            proto.functions.extend(kept)
        return self._open(proto)

    def twins(self) -> tuple[ort.InferenceSession, list[Twin]]:
        """The model with each product at level 4 beside itself, which nothing but its figures reads."""
        proto = self._copy()
        unfuse_blocks(proto)
        graph = proto.graph
        axis = numpy_helper.from_array(np.array([-1]), "twins.axis")
        graph.initializer.append(axis)
        found: list[Twin] = []
        nodes: list[onnx.NodeProto] = []
        for node in graph.node:
            nodes.append(node)
            if _is_ours(node) and node.op_type == OP.name:
                added, twin = _twin(node, axis.name, len(found))
                nodes += added
                found.append(twin)
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)
        for twin in found:
            for name in (twin.difference, twin.exact, twin.largest, twin.power):
                graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
        return self._open(proto), found

    def _copy(self) -> onnx.ModelProto:
        proto = onnx.ModelProto()
        proto.CopyFrom(self._proto)
        return proto

    def _open(self, proto: onnx.ModelProto) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = self._threads
        options.add_session_config_entry(_FOLDER, str(self._folder))
        runtime_ext.register(options)
        return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _is_ours(node: onnx.NodeProto) -> bool:
    return node.domain in OP.domain_names and node.op_type in (OP.name, MLP.name, ATTENTION.name)


def _level(node: onnx.NodeProto, attribute: str) -> int:
    return next((each.i for each in node.attribute if each.name == attribute), 0)


def _set_level(node: onnx.NodeProto, attribute: str) -> None:
    kept = [each for each in node.attribute if each.name != attribute]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(attribute, 4)])


def _twin(node: onnx.NodeProto, axis: str, index: int) -> tuple[list[onnx.NodeProto], Twin]:
    name = f"twins.{index}"
    twin = onnx.NodeProto.FromString(node.SerializeToString())
    twin.name, twin.output[0] = name, f"{name}.coarse"
    _set_level(twin, _LEVEL)
    x, exact = node.input[0], node.output[0]
    steps = [
        ("Sub", [exact, twin.output[0]], "off"),
        ("ReduceSumSquare", [f"{name}.off", axis], "difference"),
        ("ReduceSumSquare", [exact, axis], "exact"),
        ("Abs", [x], "magnitudes"),
        ("ReduceMax", [f"{name}.magnitudes", axis], "largest"),
        ("Mul", [x, x], "squares"),
        ("ReduceMean", [f"{name}.squares", axis], "power"),
    ]
    added = [helper.make_node(kind, inputs, [f"{name}.{output}"], f"{name}.{output}") for kind, inputs, output in steps]
    results = (f"{name}.{output}" for output in ("difference", "exact", "largest", "power"))
    return [twin, *added], Twin(node.input[1].removesuffix(_PLANES), *results)
