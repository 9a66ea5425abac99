"""The facts of a checkpoint, layer by layer."""

import math
from pathlib import Path

from dualbinary import InputError
from dualbinary.checkpoint import (
    MODULE_PARTS,
    QuantizationConfig,
    StoredTensor,
    load_module,
    planes_name,
    rotation_signs_name,
    scales_name,
    stored_tensors,
)
from dualbinary.files.json_objects import read_json_object
from dualbinary.files.model_files import CONFIG_FILE
from dualbinary.metrics.formats import format_words
from importer.inspect.facts import Layer, ModelFacts, Others, counts_of
from importer.inspect.source import BYTES, rotated_words

__all__ = ["checkpoint_facts"]


def checkpoint_facts(directory: Path, config: QuantizationConfig, *, read: bool) -> ModelFacts:
    """The facts of the checkpoint at `directory`; with `read` also what planes hold, for which all of them are read.

    Raises InputError where its files do not fit one another.
    """
    tensors = stored_tensors(directory)
    modules = [name.removesuffix(".planes") for name in tensors if name.endswith(".planes")]
    for name in tensors:
        module, _, part = name.rpartition(".")
        if part in MODULE_PARTS and not {planes_name(module), scales_name(module)} <= tensors.keys():
            raise InputError(f"{name}: expected planes and scales of {module}, one of which is missing")
    others: dict[str, list[int]] = {}
    for name, tensor in tensors.items():
        if name.rpartition(".")[2] in MODULE_PARTS:
            continue
        entry = others.setdefault(tensor.dtype, [0, 0, 0])
        for place, value in enumerate((1, math.prod(tensor.shape), _bytes(tensor))):
            entry[place] += value
    values = read_json_object(directory / CONFIG_FILE)
    block = {
        key: value for key, value in config.to_dict().items() if key not in ("overrides", "modules_to_not_convert")
    }
    quantization = {**block, "overrides": len(config.overrides), "kept modules": len(config.modules_to_not_convert)}
    files = sorted({tensor.file for tensor in tensors.values()})
    return ModelFacts(
        str(directory),
        "checkpoint",
        str(values.get("model_type", "")),
        tuple(_layer(module, config, tensors, read) for module in modules),
        tuple(sorted((Others(kind, *entry) for kind, entry in others.items()), key=lambda each: -each.bytes)),
        {file.name: file.stat().st_size for file in files},
        {"quantization_config": quantization},
    )


def _layer(module: str, config: QuantizationConfig, tensors: dict[str, StoredTensor], read: bool) -> Layer:
    form, planes = config.format_of(module), tensors[planes_name(module)]
    signs = tensors.get(rotation_signs_name(module))
    N, K = planes.shape[1], _inputs(module, planes, config, signs)
    size = sum(_bytes(tensors[name]) for part in MODULE_PARTS if (name := f"{module}.{part}") in tensors)
    words, block_size = format_words(form), config.block_size_of(module)
    if block_size is not None:
        words = rotated_words(words, block_size)
    weight = load_module(tensors, module, N, K, form).with_own_scales() if read else None
    return Layer(module, N, K, words, 8 * size / (N * K), size, **counts_of(weight))


def _inputs(module: str, planes: StoredTensor, config: QuantizationConfig, signs: StoredTensor | None) -> int:
    """K, or what it is padded to: the planes alone do not tell where rows end inside a group."""
    if signs is not None:
        return signs.shape[0]
    form, columns = config.format_of(module), planes.shape[2]
    if not form.node_levels.group_zeros:
        return 8 * columns
    # The zero points of groups are behind the planes: a bit of each for every plane.
    size = form.group_size
    groups = next(
        (n for n in range(1, columns * 8 + 1) if n * size // 8 + form.node_levels.zero_bytes(n) == columns), 0
    )
    return groups * size if size > 0 and groups else 8 * columns


def _bytes(tensor: StoredTensor) -> int:
    return math.prod(tensor.shape) * BYTES.get(tensor.dtype, 1)
