"""A checkpoint: config.json with its block, and safetensors files (dualbinary.checkpoint)."""

import json
from collections.abc import Iterator

import numpy as np
from safetensors.numpy import save

from dualbinary import InputError
from dualbinary.checkpoint import (
    QuantizationConfig,
    check_modules,
    load_module,
    load_order,
    load_rotation,
    order_name,
    planes_name,
    read_quantization_config,
    rotation_signs_name,
    scales_name,
    stored_tensors,
)
from dualbinary.contract.weight import PlaneFormat
from tools.fuzz.readers.sections import files_of, in_directory, joined

NAME = "checkpoint"

_LINEARS = {"a.q": (8, 64), "a.k": (4, 96)}
_FORMS = (
    PlaneFormat(2, 32, True),
    PlaneFormat(3, 64, False),
    PlaneFormat(4, 32, False, levels="even", zero=8),
    PlaneFormat(2, 32, False, levels="even", zero="group"),
)


def seeds() -> Iterator[bytes]:
    """A checkpoint in each kind of form, the last two with an order of inputs or a rotation; one in two files."""
    rng = np.random.default_rng(0)
    for index, form in enumerate(_FORMS):
        tensors, rotations = {}, {}
        for module, (n, k) in _LINEARS.items():
            own = form.for_inputs(k)
            planes, scales = own.shapes(n, k)
            tensors[planes_name(module)] = (
                rng.integers(0, 256, planes).astype(np.uint8) if index < 3 else np.zeros(planes, np.uint8)
            )
            tensors[scales_name(module)] = rng.standard_normal(scales).astype(np.float16)
            if index == 2:
                tensors[order_name(module)] = rng.permutation(k).astype(np.int32)
            if index == 1:
                rotations[module] = 32
                tensors[rotation_signs_name(module)] = np.ones(k, np.int8)
        block = QuantizationConfig.of_formats("fdb", form, {}, (), None, rotations).to_dict()
        config = json.dumps({"model_type": "llama", "quantization_config": block}).encode()
        if index:
            yield joined({"config.json": config, "model.safetensors": save(tensors)})
            continue
        names = list(tensors)
        halves = {"a.safetensors": names[:2], "b.safetensors": names[2:]}
        weight_map = {name: file for file, own in halves.items() for name in own}
        files = {file: save({name: tensors[name] for name in own}) for file, own in halves.items()}
        index_file = json.dumps({"metadata": {}, "weight_map": weight_map}).encode()
        yield joined({"config.json": config, "model.safetensors.index.json": index_file, **files})


def try_input(data: bytes) -> None:
    """Open the directory, check it, and read every module."""
    with in_directory(files_of(data)) as directory:
        try:
            config, tensors = read_quantization_config(directory), stored_tensors(directory)
            if config is None:
                return
            check_modules(config, tensors, _LINEARS)
            for module, (n, k) in _LINEARS.items():
                load_module(tensors, module, n, k, config.format_of(module)).dequantize()
                load_order(tensors, module)
                load_rotation(config, tensors, module)
        except InputError:
            pass
