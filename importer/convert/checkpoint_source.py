"""A checkpoint as a model to convert."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import safe_open

from dualbinary import InputError
from dualbinary.checkpoint import (
    QuantizationConfig,
    StoredTensor,
    check_modules,
    load_module,
    load_order,
    order_name,
    planes_name,
    quantized_by,
    read_quantization_config,
    scales_name,
    stored_tensors,
)
from dualbinary.contract.weight import PlaneWeight
from dualbinary.files.json_objects import read_json_object
from dualbinary.files.model_files import CONFIG_FILE
from importer.convert.own_model import OwnModel, OwnWeight, refuse_rotated
from importer.model import PlainTensor
from importer.modules import configuration, modules_of
from importer.readers.directory import FLOATS

__all__ = ["open_checkpoint"]


def open_checkpoint(path: Path) -> OwnModel:
    """The model in the directory `path`, from headers. Raises InputError where it is no checkpoint of ours."""
    if (method := quantized_by(path)) is not None:
        raise InputError(f"{path}: quantized with {method} already; `dualbinary import` makes a checkpoint of it first")
    quantization, stored = read_quantization_config(path), stored_tensors(path)
    if quantization is None:
        raise InputError(f"{path}: not quantized; `dualbinary quantize` trains a checkpoint, which can be converted")
    config = {k: v for k, v in read_json_object(path / CONFIG_FILE).items() if k != "quantization_config"}
    modules = modules_of(configuration(config, path), path)
    check_modules(quantization, stored, modules.linears, modules.tables)
    for module in modules.weights:
        if quantization.block_size_of(module) is not None and planes_name(module) in stored:
            refuse_rotated(path, module)
    weights = {
        module: _weight(module, *size, stored, quantization)
        for module, size in modules.weights.items()
        if planes_name(module) in stored
    }
    parts = {part(module) for module in weights for part in (planes_name, scales_name, order_name)}
    tensors = {name: _plain(name, tensor) for name, tensor in stored.items() if name not in parts}
    return OwnModel(path, path, config, weights, tensors)


def _weight(
    module: str, N: int, K: int, stored: dict[str, StoredTensor], quantization: QuantizationConfig
) -> OwnWeight:
    def read() -> PlaneWeight:
        return load_module(stored, module, N, K, quantization.format_of(module))

    def read_order() -> npt.NDArray[np.int32] | None:
        return load_order(stored, module)

    return OwnWeight(N, K, read, read_order)


def _plain(name: str, tensor: StoredTensor) -> PlainTensor:
    if tensor.dtype not in FLOATS:
        raise InputError(f"{name}: {tensor.dtype}, expected one of {', '.join(FLOATS)}")

    def read() -> np.ndarray:
        with safe_open(tensor.file, framework="numpy") as file:
            return file.get_tensor(tensor.name)

    return PlainTensor(tensor.shape, FLOATS[tensor.dtype], read)
