"""An exported file as a model to convert: its parameters by the names of its initializers.

    <module>.planes, <module>.scales             a weight; <parent>.<a>_<b> those of a, then of b, which share an input
    <module>.input_order                         the order of its inputs, where that is another one
    <parameter>                                  a tensor that has no planes
    <node>.output.bias                           the biases of the layers of a node, one after another
    <parameter>.table                            a vocabulary table without planes

What they are the parameters of is not in the file: config.json and the tokenizer beside it say it.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from dualbinary import InputError
from dualbinary.contract.schema import HADAMARD, OP
from dualbinary.contract.weight import PlaneWeight
from dualbinary.files.json_objects import read_json_object
from dualbinary.files.model_files import CONFIG_FILE
from dualbinary.onnx_files.blocks import unfuse_blocks
from dualbinary.onnx_files.relayout.model import StoredWeight, array_of, load_model, weights_of
from importer.convert.onnx_table import embedding_weight
from importer.convert.own_model import OwnModel, OwnWeight, refuse_rotated
from importer.model import PlainTensor
from importer.modules import Modules, configuration, modules_of

__all__ = ["open_onnx"]

_PLANES = ".planes"
_PLAIN = OP.layouts[0].name


def open_onnx(path: Path) -> OwnModel:
    """The model in the file `path`. Raises InputError where it is no export, or config.json is not beside it."""
    graph = load_model(path)
    unfuse_blocks(graph)
    for node in graph.graph.node:
        if node.op_type == HADAMARD.name:
            refuse_rotated(path, f"what follows node {node.name!r}")
    stored = {weight.planes.name.removesuffix(_PLANES): weight for weight in weights_of(graph)}
    if not stored:
        raise InputError(
            f"{path}: no {OP.domain}::{OP.name} node holds a weight; an export with --op matmulnbits cannot be "
            "converted: give the checkpoint, or export it again without"
        )
    if not (path.parent / CONFIG_FILE).is_file():
        raise InputError(
            f"{path.parent / CONFIG_FILE}: missing; the file alone does not say what the model is: put config.json and "
            "the tokenizer's files beside it, as an export has them"
        )
    config = read_json_object(path.parent / CONFIG_FILE)
    modules = modules_of(configuration(config, path.parent), path.parent)
    initializers = {tensor.name: tensor for tensor in graph.graph.initializer}
    weights: dict[str, OwnWeight] = {}
    tensors = _tensors(initializers, modules, path.parent)
    for name, weight in stored.items():
        parts = [name.removesuffix(".weight")] if name.endswith(".weight") else _parts(name, weight, modules, path)
        begin = 0
        bias = initializers.get(f"{name}.output.bias")
        for module in parts:
            rows = slice(begin, begin := begin + modules.weights[module][0])
            weights[module] = _weight(weight, rows, initializers.get(f"{name}.input_order"), path.parent)
            if bias is not None:
                tensors[f"{module}.bias"] = _tensor(bias, path.parent, rows)
    for module, size in modules.tables.items():
        if module not in weights:
            table = embedding_weight(initializers, f"{module}.weight", *size, path.parent)
            weights |= {} if table is None else {module: table}
    return OwnModel(path, path.parent, config, weights, tensors)


def _parts(name: str, weight: StoredWeight, modules: Modules, path: Path) -> list[str]:
    """The modules whose outputs a weight has, in order. Raises InputError where names and sizes do not tell."""
    parent, _, leaves = name.rpartition(".")
    prefix = f"{parent}." if parent else ""
    known = {
        module.removeprefix(prefix): N
        for module, (N, K) in modules.weights.items()
        if K == weight.K and module.startswith(prefix) and "." not in module.removeprefix(prefix)
    }

    def split(rest: str, outputs: int) -> list[str] | None:
        for leaf, N in known.items():
            if rest == leaf and outputs == N:
                return [leaf]
            if rest.startswith(f"{leaf}_") and outputs > N:
                others = split(rest.removeprefix(f"{leaf}_"), outputs - N)
                if others is not None:
                    return [leaf, *others]
        return None

    found = split(leaves, weight.N)
    if found is None:
        raise InputError(
            f"{path}: node {name!r} with {weight.N} outputs of {weight.K} inputs is no layer of the model of "
            "config.json, nor several; give the checkpoint that it was exported from"
        )
    return [f"{prefix}{leaf}" for leaf in found]


def _weight(weight: StoredWeight, rows: slice, order: onnx.TensorProto | None, directory: Path) -> OwnWeight:
    def read() -> PlaneWeight:
        return weight.read(directory).to_layout(_PLAIN).rows(rows)

    def read_order() -> npt.NDArray[np.int32] | None:
        return None if order is None else array_of(order, directory).astype(np.int32)

    return OwnWeight(rows.stop - rows.start, weight.K, read, read_order)


def _tensors(initializers: Mapping[str, onnx.TensorProto], modules: Modules, directory: Path) -> dict[str, PlainTensor]:
    """The parameters that have no planes."""
    found = {}
    for parameter in modules.parameters:
        tensor = initializers.get(parameter)
        tensor = initializers.get(f"{parameter}.table") if tensor is None else tensor
        if tensor is not None:
            found[parameter] = _tensor(tensor, directory, slice(None))
    return found


def _tensor(tensor: onnx.TensorProto, directory: Path, rows: slice) -> PlainTensor:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    first = len(range(*rows.indices(tensor.dims[0])))
    read: Callable[[], np.ndarray] = lambda: array_of(tensor, directory)[rows]  # noqa: E731  # as its type says
    return PlainTensor((first, *tensor.dims[1:]), dtype, read)
