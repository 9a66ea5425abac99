"""A GGUF file as a low-bit model."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from dualbinary import InputError
from dualbinary.files.model_files import GENERATION_CONFIG
from importer.model import InexactWeight, LowBitModel, Numbers, PackedWeight, PlainTensor
from importer.readers.gguf.blocks import FORMS, read_numbers
from importer.readers.gguf.config import family_of, generation_values, model_config
from importer.readers.gguf.container import MAGIC, Container, GgufTensor, open_container
from importer.readers.gguf.families import Family
from importer.readers.gguf.inexact import inexact_weight
from importer.readers.gguf.keys import Keys
from importer.readers.gguf.names import Parameter, parameters
from importer.readers.gguf.order import Order, joined
from importer.readers.gguf.tokenizer import tokenizer_files

__all__ = ["is_gguf", "open_gguf"]

_PLAIN = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype(ml_dtypes.bfloat16)}
_OF_SCANS = "ssm_norm.weight"  # stored as it is, whatever other norms are
_OF_THE_LIBRARY = ("transformers_version", "_name_or_path", "dtype")  # say nothing of the model


def is_gguf(path: Path, config: dict[str, Any]) -> bool:
    """Whether `path` is a file that begins as GGUF does, or is named so."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC or path.suffix == ".gguf"


def open_gguf(path: Path, config: dict[str, Any]) -> LowBitModel:
    """The model in the file `path`, or in a split file whose first part it is; weights are read when asked for.

    Raises InputError for what is damaged, is no model that this release knows, or has a type of no weights.
    """
    container = open_container(path)
    keys = Keys(container)
    family = family_of(keys)
    transformers_config = model_config(keys, family)
    places, unread = parameters(keys, transformers_config, family)
    files, notes = tokenizer_files(keys, transformers_config.vocab_size)
    if unread:
        notes.append(f"left out {len(unread)} tensors, such as {unread[0]}: {family.unread_note}")
    if unknown := keys.refuse_unread():
        notes.append(f"metadata that this release does not know, and leaves out: {', '.join(unknown)}")
    weights: dict[str, PackedWeight] = {}
    inexact: dict[str, InexactWeight] = {}
    tensors: dict[str, PlainTensor] = {}
    kinds: list[tuple[type, dict[str, Any]]] = [
        (PackedWeight, weights),
        (InexactWeight, inexact),
        (PlainTensor, tensors),
    ]
    parts: dict[str, dict[int, PackedWeight | PlainTensor | InexactWeight]] = {}
    for name, place in places.items():
        tensor = container.tensors[name]
        order = Order(
            family.rows(name, tensor.shape[0], transformers_config),
            family.columns(name, tensor.shape[-1], transformers_config),
        )
        parts.setdefault(place.name, {})[place.part[0]] = _read(container, tensor, place, order, family)
    for name, found in parts.items():
        whole = joined(name, [found[number] for number in sorted(found)])
        of_kind = next(group for kind, group in kinds if isinstance(whole, kind))
        of_kind[name if of_kind is tensors else name.removesuffix(".weight")] = whole
    return LowBitModel(
        format="gguf",
        config=_json_values(transformers_config),
        weights=weights,
        tensors=tensors,
        files=files | {GENERATION_CONFIG: _json_text(generation_values(keys, transformers_config))},
        notes=tuple(notes),
        inexact=inexact,
    )


def _read(
    container: Container, tensor: GgufTensor, place: Parameter, order: Order, family: Family
) -> PackedWeight | PlainTensor | InexactWeight:
    """What one tensor is, in the order of transformers."""
    if tensor.type.name in _PLAIN:
        return _plain(tensor, place, order, family)
    if tensor.type.name in FORMS and place.quantizable:
        return _packed(tensor, order)
    return _inexact(container, tensor, place, order)


def _packed(tensor: GgufTensor, order: Order) -> PackedWeight:
    form, kind = FORMS[tensor.type.name], tensor.type
    N, K = tensor.shape

    def read() -> Numbers:
        return order.of_numbers(read_numbers(form, tensor.data, N, K, kind.weights, tensor.name))

    return PackedWeight(kind.name, N, K, form.bits, form.group_size, 8 * kind.size / kind.weights, read)


def _plain(tensor: GgufTensor, place: Parameter, order: Order, family: Family) -> PlainTensor:
    dtype = _PLAIN[tensor.type.name]

    def read() -> np.ndarray:
        values = order.of_values(tensor.data.view(dtype).reshape(tensor.shape))
        if family.norm_offset and tensor.name.endswith("norm.weight") and not tensor.name.endswith(_OF_SCANS):
            values = values - np.asarray(family.norm_offset, dtype)
        values = family.plain(tensor.name, values)
        return np.ascontiguousarray(values.T if place.transposed else values).reshape(place.shape)

    return PlainTensor(place.shape, dtype, read)


def _inexact(container: Container, tensor: GgufTensor, place: Parameter, order: Order) -> InexactWeight:
    weight = inexact_weight(tensor) if place.quantizable else None
    if weight is None:
        raise InputError(
            f"{container.path}: tensor {tensor.name!r} is of type {tensor.type.name}; expected plain numbers (F32, "
            f"F16, BF16){' or a type of weights' if place.quantizable else ''} for {place.name!r}; give another file"
        )
    read = weight.read
    return weight if read is None else replace(weight, read=lambda: order.of_values(read()))


def _json_values(config: Any) -> dict[str, Any]:
    values = json.loads(config.to_json_string())
    for name in _OF_THE_LIBRARY:
        values.pop(name, None)
    return values


def _json_text(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=2) + "\n"
