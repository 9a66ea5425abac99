"""The result: a checkpoint directory that the exporter takes, written in one step."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  # lets NumPy read bfloat16 tensors
import numpy as np
from safetensors import safe_open

from calib.models.source import SourceModel
from calib.models.tables import table_places
from dualbinary.checkpoint import (
    CONFIG_FILE,
    INDEX_FILE,
    QuantizationConfig,
    planes_name,
    rotation_signs_name,
    scales_name,
    write_checkpoint,
)
from dualbinary.contract.weight import PlaneWeight

__all__ = ["save_checkpoint"]

MODEL_FILES = ("*.json", "*.jinja", "*.txt", "*.model")  # tokenizer files, generation_config.json and the like


def save_checkpoint(
    source: SourceModel, directory: Path, quantized: Callable[[str], PlaneWeight], *, record: Path | None = None
) -> None:
    """Write the checkpoint of `source` to `directory`, tensors in the order of its files, one at a time in memory.

    `quantized` gives a layer by its name, in layout plain. `record` is a file to put beside.
    Raises InputError if `directory` exists and is not empty.
    """
    default = source.formats.default
    kept = {
        name.removesuffix(".weight")
        for name, tensor in source.tensors.items()
        if name.endswith(".weight") and len(tensor.shape) > 1
    } - set(source.linears)
    tables = {table.name: table.format for table in source.tables}
    quantization = QuantizationConfig.of_formats(
        "qbb" if default.symmetric else "fdb",
        default,
        {name: source.formats.of(name) for name in source.linears},
        tuple(sorted(kept - tables.keys())),
        tables,
        {
            module.name: module.stored_rotation.block_size
            for module in (*source.linears.values(), *source.tables)
            if module.stored_rotation is not None
        },
    )
    files = {file for pattern in MODEL_FILES for file in source.directory.glob(pattern)}
    files -= {source.directory / name for name in (CONFIG_FILE, INDEX_FILE)}
    write_checkpoint(
        directory,
        source.config,
        quantization,
        _tensors(source, quantized, {f"{_tied_copy(source)}.weight"} if tables else set()),
        files={path.name: path for path in (*sorted(files), *([record] if record else []))},
    )


def _tied_copy(source: SourceModel) -> str | None:
    """The head that the files store again beside the embedding that it is tied to."""
    places = table_places(source)
    head: Any = source.model.get_output_embeddings()
    name = source.stored_module(head) if len(places) == 1 else None
    return name if name != places[0].name else None


def _tensors(
    source: SourceModel, quantized: Callable[[str], PlaneWeight], without: set[str]
) -> Iterator[tuple[str, np.ndarray]]:
    modules = {**source.linears, **{table.name: table for table in source.tables}}
    for name, stored in source.tensors.items():
        module = name.removesuffix(".weight")
        if name in without:
            continue
        if module != name and module in modules:
            weight = quantized(module)
            yield planes_name(module), weight.planes
            yield scales_name(module), weight.scales
            rotation = modules[module].stored_rotation
            if rotation is not None:
                yield rotation_signs_name(module), rotation.signs
        else:
            with safe_open(stored.file, framework="numpy") as file:
                yield name, file.get_tensor(stored.name)
