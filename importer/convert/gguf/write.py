"""A model as a GGUF file: which type each weight gets, then header and data, a part of a weight at a time in memory."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from dualbinary import InputError
from dualbinary.files.atomic import move_into_place, writing
from dualbinary.metrics.formats import format_words
from importer.convert.gguf.blocks import FORMS, BlockForm, blocks_of
from importer.convert.gguf.metadata import architecture_of, check_metadata, factor_tensors, model_metadata
from importer.convert.gguf.tokenizer import tokenizer_metadata
from importer.convert.levels import ROUNDING, even_levels, float_type
from importer.convert.outcome import Outcome
from importer.convert.own_model import OwnModel, OwnWeight, parts_of
from importer.modules import configuration
from importer.readers.gguf.families import FAMILIES
from importer.readers.gguf.names import Parameter, names_of

__all__ = ["write_gguf"]

Progress = Callable[[int], None]
"""Called with how many weights are done."""
Rows = npt.NDArray[np.intp]

_FLOATS = {np.dtype(np.float32): 0, np.dtype(np.float16): 1, np.dtype(ml_dtypes.bfloat16): 30}
"""Numbers of the types of plain tensors."""
_FILE_TYPES = {"Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "TQ2_0": 37}  # of a file, for people
_QUANTIZATION_VERSION = 2


@dataclass(frozen=True)
class _Tensor:
    """A tensor of the file: its shape in transformers' order, its type's number and bytes, and its data in parts."""

    shape: tuple[int, ...]
    number: int
    size: int
    data: Callable[[], Iterable[np.ndarray]]


def write_gguf(
    model: OwnModel, out: Path, *, types: tuple[str, ...] = (), dequantize: bool = False, progress: Progress
) -> Outcome:
    """Write `model` to the file `out`, which appears in one step, replacing one that is there.

    `types` are those that weights may have, all where it is empty. With `dequantize`, weights that none of them holds
    are written as float16 or float32. Raises InputError, before anything is written, where the file cannot say what the
    model is, or a weight fits no type.
    """
    architecture = architecture_of(model)
    config = configuration(model.config, model.directory)
    places = names_of(architecture, config, FAMILIES[architecture], model.path)
    _check_complete(model, places, ties=bool(config.tie_word_embeddings))
    keys, notes = tokenizer_metadata(model.directory, config.vocab_size)
    metadata = {"general.architecture": architecture, "general.type": "model", "general.name": model.path.stem}
    metadata |= model_metadata(architecture, config) | keys
    factors = factor_tensors(config)
    shapes = {name: place.shape for name, place in places.items()} | {n: v.shape for n, v in factors.items()}
    check_metadata(out, metadata, shapes, config)
    forms = [form for form in FORMS if not types or form.name in types]
    outcome = Outcome("gguf", notes=notes)
    tensors = {name: _plain(values, values.shape) for name, values in factors.items()}
    for name, place in places.items():
        family, rows = FAMILIES[architecture], _stored_rows(architecture, name, place, config)
        if place.module in model.weights and place.name.endswith(".weight"):
            tensors[name] = _weight(model.weights[place.module], place, rows, forms, outcome, dequantize, progress)
        else:
            offset = family.norm_offset if name.endswith("norm.weight") else 0.0
            tensors[name] = _float_tensor(model, place, rows, offset)
    most = max(outcome.types, key=lambda kind: outcome.types[kind], default="")
    metadata |= {"general.file_type": _FILE_TYPES.get(most, 1), "general.quantization_version": _QUANTIZATION_VERSION}
    _write(out, metadata, tensors, progress)
    return outcome


def _check_complete(model: OwnModel, places: dict[str, Parameter], *, ties: bool) -> None:
    """Refuse a model that lacks a parameter, or has one more."""
    wanted = {place.name for place in places.values()}
    have = {f"{module}.weight" for module in model.weights} | set(model.tensors)
    missing = sorted(wanted - have)
    if missing:
        raise InputError(f"{model.path}: no {missing[0]!r}, which config.json asks for; the model is incomplete")
    more = sorted(have - wanted - ({"lm_head.weight"} if ties else set()))
    if more:
        raise InputError(f"{model.path}: {more[0]!r} is no parameter of the model that config.json describes")
    for place in places.values():
        weight = model.weights.get(place.module) if place.name.endswith(".weight") else None
        shape = (weight.N, weight.K) if weight else model.tensors[place.name].shape
        if shape != place.shape:
            raise InputError(f"{place.name}: expected {list(place.shape)} by config.json, got {list(shape)}")


def _stored_rows(architecture: str, name: str, place: Parameter, config: Any) -> Rows | None:
    """Which row of transformers each row of the file is; None where they are the same."""
    rows = FAMILIES[architecture].rows(name, place.shape[0], config)
    return None if rows is None else np.argsort(rows)


def _plain(values: np.ndarray, shape: tuple[int, ...]) -> _Tensor:
    return _Tensor(shape, _FLOATS[values.dtype], values.nbytes, lambda: [values])


def _float_tensor(model: OwnModel, place: Parameter, rows: Rows | None, offset: float) -> _Tensor:
    """A tensor that has no planes: a matrix in its own type, anything else in float32, as llama.cpp wants it."""
    tensor = model.tensors[place.name]
    dtype = tensor.dtype if len(place.shape) > 1 else np.dtype(np.float32)

    def data() -> list[np.ndarray]:
        values = tensor.read().astype(dtype, copy=False)
        values = values if rows is None else values[rows]
        return [values + np.asarray(offset, dtype) if offset else values]

    return _Tensor(place.shape, _FLOATS[dtype], math.prod(place.shape) * dtype.itemsize, data)


def _weight(
    weight: OwnWeight,
    place: Parameter,
    rows: Rows | None,
    forms: list[BlockForm],
    outcome: Outcome,
    dequantize: bool,
    progress: Progress,
) -> _Tensor:
    """A weight in the smallest type that holds it exactly, else in the smallest that rounds its scales."""
    found = _roundings(weight, forms, progress)
    fits = {name: change for name, change in found.items() if change <= ROUNDING}
    form = next((form for form in forms if fits.get(form.name) == 0), None)
    form = form or next((form for form in forms if form.name in fits), None)
    if form is None:
        if not dequantize:
            raise InputError(_misfit(weight, place.module, forms))
        return _dequantized(weight, place, rows, outcome)
    outcome.count(form.name)
    if fits[form.name]:
        outcome.rounding[place.module] = fits[form.name]
    chosen = form

    def data() -> Iterator[np.ndarray]:
        order = weight.read_order()
        for part in parts_of(weight.read(), rows):
            levels = even_levels(part, order)
            blocks = blocks_of(levels, chosen) if levels is not None else None
            assert blocks is not None
            yield blocks.pack()

    return _Tensor(place.shape, form.number, weight.N * weight.K // form.weights * form.size, data)


def _roundings(weight: OwnWeight, forms: list[BlockForm], progress: Progress) -> dict[str, float]:
    """The largest relative change of a scale in each type that holds the levels."""
    found = dict.fromkeys((form.name for form in forms), 0.0)
    order = weight.read_order()
    for part in parts_of(weight.read()):
        levels = even_levels(part, order)
        for form in [form for form in forms if form.name in found]:
            blocks = blocks_of(levels, form) if levels is not None else None
            if blocks is None:
                del found[form.name]
            else:
                found[form.name] = max(found[form.name], blocks.rounding)
        progress(part.N * part.K)
    return found


def _dequantized(weight: OwnWeight, place: Parameter, rows: Rows | None, outcome: Outcome) -> _Tensor:
    """A weight as float16, rounded once, or as float32 where that would change one by more."""
    order = weight.read_order()
    columns = slice(None) if order is None else np.argsort(order)

    def values() -> Iterator[npt.NDArray[np.float64]]:
        return (part.dequantize()[:, columns] for part in parts_of(weight.read(), rows))

    dtype, outcome.plain[place.module] = float_type(values())
    outcome.count("F16" if dtype == np.float16 else "F32")
    size = math.prod(place.shape) * dtype.itemsize
    return _Tensor(place.shape, _FLOATS[dtype], size, lambda: (part.astype(dtype) for part in values()))


def _misfit(weight: OwnWeight, module: str, forms: list[BlockForm]) -> str:
    """The sentence about a weight that no type holds."""
    stored, order = weight.read(), weight.read_order()
    size, most, whole, even = stored.format.group_size, 0, True, True
    for part in parts_of(stored):
        levels = even_levels(part, order)
        even = even and levels is not None
        if levels is not None:
            most, whole = max(most, int(levels.q.max(initial=0))), whole and levels.zero is not None
    if not even:
        why = "its levels are not evenly spaced, and the types of GGUF hold none but those"
        way = "train it with even levels"
    elif weight.K % 32:
        why, way = f"{weight.K} inputs are no whole number of blocks of 32", "keep its layer in full precision"
    elif order is not None and size < weight.K:
        why, way = "inputs of a group are not neighbors (act-order)", "give a directory as OUT: GPTQ holds such weights"
    elif size < 32:
        why, way = f"groups of {size} inputs are smaller than blocks of 32", "train it with groups of 32 or more"
    else:
        kind = "a zero point" if whole else "an offset"
        why = f"numbers up to {most} with {kind}, or scales beyond float16"
        way = "allow more types (--types)" if len(forms) < len(FORMS) else "train it with fewer planes"
    return (
        f"{module}: {format_words(stored.format)}, fits none of {', '.join(form.name for form in forms)}: {why}; {way}"
        ", or --dequantize writes it as float16"
    )


def _write(out: Path, metadata: dict[str, Any], tensors: dict[str, _Tensor], progress: Progress) -> None:
    import gguf

    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".{out.name}.partial")
    with writing(aside, remove=True), writing(out):
        writer = gguf.GGUFWriter(aside, metadata["general.architecture"])
        for key, value in metadata.items():
            if key != "general.architecture":
                _add(writer, key, value)
        for name, tensor in tensors.items():  # with a type of floats the writer takes the shape as it is
            writer.add_tensor_info(name, tensor.shape, np.dtype(np.float32), tensor.size, raw_dtype=_number(tensor))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        assert writer.fout is not None
        file = writer.fout[0]
        for name, tensor in tensors.items():
            writer.write_padding(file, file.tell())
            begin = file.tell()
            for part in tensor.data():
                file.write(np.ascontiguousarray(part).data.cast("B"))
                progress(part.shape[0] * tensor.shape[-1] if part.ndim > 1 else part.size)
            assert file.tell() - begin == tensor.size, name
        writer.write_padding(file, file.tell())
        writer.close()
        move_into_place(aside, out)


def _number(tensor: _Tensor) -> Any:
    """The number of a type: the library, whose own list is older, writes any."""
    return tensor.number


def _add(writer: Any, key: str, value: Any) -> None:
    kinds = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
        list: writer.add_array,
    }
    kinds[type(value)](key, value)
