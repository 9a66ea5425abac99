"""One model file into another that differs in the stored layout of its weights alone."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from onnx import helper

from dualbinary.contract.schema import OP
from dualbinary.contract.weight import EACH_GROUP, PER_CHANNEL, PlaneFormat
from dualbinary.errors import InputError
from dualbinary.files.json_objects import read_json_object
from dualbinary.files.model_files import CONFIGS, EXPORT_REPORT, GENAI_CONFIG, OPTIONAL_FILES, REPORT_VERSION
from dualbinary.files.staging import check_output, check_space, staged
from dualbinary.onnx_files.blocks import fuse_blocks, unfuse_blocks
from dualbinary.onnx_files.data_file import INLINE_BYTES, AlignedFile
from dualbinary.onnx_files.functions import own_layout, replace_unpacking
from dualbinary.onnx_files.relayout.model import (
    External,
    StoredWeight,
    external_data,
    load_model,
    read_chunks,
    tensors_of,
    weights_of,
)

__all__ = ["Outcome", "relayout"]

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""

_LAYOUT = "layout"
_COPY_OF = "for output blocks, as the function of domain "
_SPARE = 1.25  # blocks round up to 32 outputs and scales to cache lines; small models more than large ones
_GRAPH_BYTES = 16 << 20


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run.

    `before` lists the layouts that the input had; `copied` the files that came along; `kept` counts weights that stay
    as they are, because other nodes read them too.
    """

    layout: str
    before: tuple[str, ...]
    weights: int
    weight_bytes: int
    data_bytes: int
    copied: tuple[str, ...]
    kept: int = 0


def relayout(source: Path, out: Path, layout: str, *, force: bool = False, progress: Progress | None = None) -> Outcome:
    """Write the model `source` to `out` with all weights in `layout`, and to its data file; both appear together.

    Values stay what they are, bit for bit, and a way back gives the same bytes: plain stands for layout codes where the
    fallback function computes of codes. Tensors are read one at a time. Where
    `out` lies in another directory, what belongs beside the model is copied there. Raises InputError before anything
    is written.
    """
    if out.resolve() == source.resolve():
        raise InputError(f"{out}: is the input; choose another name")
    model = load_model(source)
    had_blocks = unfuse_blocks(model)
    weights = weights_of(model)
    if not weights:
        raise InputError(f"{source}: has no {OP.domain}::{OP.name} node, so there is no layout to change")
    kept = [weight for weight in weights if weight.shared]
    weights = [weight for weight in weights if not weight.shared]
    if not weights:
        raise InputError(
            f"{source}: other nodes read the planes of all {OP.name} nodes too, so there is no layout to change"
        )
    data_name = f"{out.name}.data"
    inputs = _external_files(model, source.parent)
    if (out.parent / data_name).resolve() in inputs:
        raise InputError(f"{out}: its data file would replace {data_name}, which the input reads; choose another name")
    model_files = _model_files(source, out)
    check_output(out, [out.name, data_name, *model_files], force=force)
    before = tuple(dict.fromkeys(weight.layout for weight in weights))
    _replace_unpacking(model, weights, kept, layout)
    with staged(out.parent) as stage:
        check_space(stage, int(sum(path.stat().st_size for path in inputs) * _SPARE) + _GRAPH_BYTES)
        with open(stage / data_name, "wb") as file:
            sizes = _write_data(model, weights, source.parent, file, progress)
            file.flush()
            os.fsync(file.fileno())
        if had_blocks:
            fuse_blocks(model)
        onnx.save(model, stage / out.name)
        data_bytes = (stage / data_name).stat().st_size
        for name in model_files:
            shutil.copyfile(source.parent / name, stage / name)
        outcome = Outcome(layout, before, len(weights), sum(sizes.values()), data_bytes, tuple(model_files), len(kept))
        _update_model_files(stage, out.name, outcome, sizes)
    return outcome


def _external_files(model: onnx.ModelProto, directory: Path) -> set[Path]:
    found = (external_data(tensor, directory) for tensor in tensors_of(model))
    return {external.path for external in found if external is not None}


def _model_files(source: Path, out: Path) -> list[str]:
    if source.parent.resolve() == out.parent.resolve():
        return []
    return [name for name in (*CONFIGS, *OPTIONAL_FILES) if (source.parent / name).is_file()]


def _replace_unpacking(
    model: onnx.ModelProto, weights: list[StoredWeight], kept: list[StoredWeight], layout: str
) -> None:
    """Let the fallback functions, where there are some, read `layout` for `weights`, and for `kept` what they read.

    Each weight's target then is `layout`, or codes in place of plain where its function computes of them.
    """
    for weight in weights:
        weight.target = layout
    functions = {f.domain: f for f in model.functions if f.domain in OP.domain_names and f.name == OP.name}
    if not functions:
        return
    if not OP.layout_named(layout).blocks:
        _drop_copies(model, functions, weights)
    for domain in dict.fromkeys(weight.domain for weight in weights):
        function = functions.get(domain)
        own = [weight for weight in weights if weight.domain == domain]
        if function is None:
            raise InputError(f"{own[0].name}: its fallback function, of domain {domain}, is not in the model")
        blocks = OP.layout_named(layout).blocks
        target = layout if blocks else own_layout(function)
        for weight in own:
            weight.target = target
        forms = {replace(_function_form(weight.plane_format), layout=target) for weight in own}
        if len(forms) > 1 and blocks:
            raise InputError(
                "the nodes differ in planes, offset or type of scales, which one fallback function cannot unpack from "
                f"layout {layout}; export the model again, or with --fallback none"
            )
        if blocks and any(weight.domain == domain for weight in kept):
            function = _copy(model, function, own)
        replace_unpacking(function, next(iter(forms)))


def _copy(model: onnx.ModelProto, function: onnx.FunctionProto, weights: list[StoredWeight]) -> onnx.FunctionProto:
    """A copy of the function in a domain of its own, in which the nodes of `weights` are then."""
    imported = {entry.domain: entry.version for entry in model.opset_import}
    free = next((name for name in OP.domain_names if name not in imported), None)
    if free is None:
        raise InputError(
            f"the model has nodes in all {len(OP.domain_names)} domains of the operator, which leaves none for the "
            "weights that change their layout; export it again with --layout or --fallback none"
        )
    copy = model.functions.add()
    copy.CopyFrom(function)
    copy.domain, copy.doc_string = free, _COPY_OF + function.domain
    model.opset_import.append(helper.make_opsetid(free, imported[function.domain]))
    _move(weights, free)
    return copy


def _drop_copies(model: onnx.ModelProto, functions: dict[str, onnx.FunctionProto], weights: list[StoredWeight]) -> None:
    """On the way to layout plain, return nodes to the function that reads it already, where blocks had a copy."""
    for domain, function in list(functions.items()):
        original = function.doc_string.removeprefix(_COPY_OF)
        if original == function.doc_string or original not in functions:
            continue
        _move([weight for weight in weights if weight.domain == domain], original)
        model.functions.remove(functions.pop(domain))
        model.opset_import.remove(next(entry for entry in model.opset_import if entry.domain == domain))


def _move(weights: list[StoredWeight], domain: str) -> None:
    for weight in weights:
        weight.domain = domain
        for node in weight.nodes:
            node.domain = domain


def _function_form(form: PlaneFormat) -> PlaneFormat:
    """What a function that unpacks weights of this form must know of it."""
    size = form.group_size if form.group_size == OP.limits["half_group"] else PER_CHANNEL
    zero = form.zero if form.zero == EACH_GROUP else 0.0
    return replace(form, group_size=size, zero=zero, per_tensor=False)


@dataclass
class _Place:
    """A tensor of the model, where its bytes are, and the weight that it is a part of."""

    tensor: onnx.TensorProto
    external: External | None
    weight: StoredWeight | None


def _places(model: onnx.ModelProto, weights: list[StoredWeight], directory: Path) -> list[_Place]:
    """The tensors to write: external ones in the order of the input's files, then weights in the model file."""
    parts = {tensor.name: weight for weight in weights for tensor in (weight.planes, weight.scales)}
    initializers = list(model.graph.initializer)
    own = {id(tensor) for tensor in initializers}
    places = [_Place(t, external_data(t, directory), parts.get(t.name)) for t in initializers]
    others = [tensor for tensor in tensors_of(model) if id(tensor) not in own]
    places += [_Place(tensor, external_data(tensor, directory), None) for tensor in others]
    outside = [(place.external.path, place.external.offset, place) for place in places if place.external is not None]
    ordered = [place for _, _, place in sorted(outside, key=lambda entry: entry[:2])]
    return ordered + [place for place in places if place.external is None and place.weight is not None]


def _write_data(
    model: onnx.ModelProto,
    weights: list[StoredWeight],
    directory: Path,
    file: BinaryIO,
    progress: Progress | None,
) -> dict[str, int]:
    """Write all places in order, weights as what they become, and point tensors there. Returns bytes by planes."""
    data, name = AlignedFile(file), Path(file.name).name
    places = _places(model, weights, directory)
    total = sum(place.external.length for place in places if place.external is not None)
    sizes: dict[str, int] = {}
    done = 0
    for place in places:
        if place.weight is None:
            assert place.external is not None
            _point_to(place.tensor, name, *data.append(read_chunks(place.external)))
        elif (planes := place.weight.planes.name) not in sizes:
            sizes[planes] = _write_weight(model, place.weight, directory, data, name)
        done += place.external.length if place.external is not None else 0
        if progress is not None:
            progress(done, total)
    return sizes


def _write_weight(model: onnx.ModelProto, weight: StoredWeight, directory: Path, data: AlignedFile, name: str) -> int:
    """Store a weight in the layout that is its target; its tensors and nodes say so then. Returns its bytes."""
    stored = weight.read(directory).to_layout(weight.target)
    for tensor, array in ((weight.planes, stored.planes), (weight.scales, stored.scales)):
        raw = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
        tensor.dims[:] = array.shape
        for field in ("raw_data", "int32_data", "float_data", "external_data", "data_location"):
            tensor.ClearField(field)
        if raw.nbytes < INLINE_BYTES:
            tensor.raw_data = raw.tobytes()
        else:
            _point_to(tensor, name, *data.append([raw.tobytes()]))
        for value in (*model.graph.value_info, *model.graph.input):
            if value.name == tensor.name:
                value.type.tensor_type.shape.CopyFrom(helper.make_tensor_type_proto(1, array.shape).tensor_type.shape)
    number = OP.layout_named(weight.target).number
    for node in weight.nodes:
        attribute = next((a for a in node.attribute if a.name == _LAYOUT), None)
        if attribute is not None:
            attribute.i = number
        else:
            node.attribute.append(helper.make_attribute(_LAYOUT, number))
    return stored.nbytes


def _point_to(tensor: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    tensor.ClearField("external_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value)


def _update_model_files(stage: Path, out: str, outcome: Outcome, sizes: dict[str, int]) -> None:
    """Let copies of genai_config.json and export_report.json say what is true of the new file.

    `sizes` are the bytes of weights by the names of their planes.
    """
    try:
        _write_model_files(stage, out, outcome, sizes)
    except (AttributeError, TypeError, KeyError, ZeroDivisionError) as error:
        names = " or ".join(outcome.copied)
        raise InputError(
            f"{names}: not as an export writes it ({error}); export the model again, or move the file away"
        ) from None


def _write_model_files(stage: Path, out: str, outcome: Outcome, sizes: dict[str, int]) -> None:
    if GENAI_CONFIG in outcome.copied:
        config = read_json_object(stage / GENAI_CONFIG)
        decoder = config.get("model", {}).get("decoder", {})
        if decoder.get("filename", out) != out:
            decoder["filename"] = out
            text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
            (stage / GENAI_CONFIG).write_text(text, encoding="utf-8")
    if EXPORT_REPORT in outcome.copied:
        report = read_json_object(stage / EXPORT_REPORT)
        if (version := report.get("report_version", REPORT_VERSION)) > REPORT_VERSION:
            raise InputError(
                f"{EXPORT_REPORT}: report_version {version} is newer than {REPORT_VERSION}, the newest that this "
                "release reads; upgrade dualbinary"
            )
        report.setdefault("options", {})[_LAYOUT] = outcome.layout
        totals: dict[str, Any] = report.get("totals", {})
        if totals.get("quantised_weights") and totals.get("parameters"):
            tables = {f"{table.get('parameter')}.planes": table for table in report.get("tables", [])}
            weight_bytes = sum(size for name, size in sizes.items() if name not in tables)
            weight_bytes += totals.get("sign_bytes", 0)  # of rotations, which stay as they are
            for name in tables.keys() & sizes.keys():
                tables[name]["bytes"] = sizes[name]
                if weights := tables[name].get("weights"):
                    tables[name]["bits_per_weight"] = 8 * sizes[name] / weights
            if "table_bytes" in totals:
                totals["table_bytes"] = sum(table.get("bytes", 0) for table in tables.values())
            totals["bits_per_weight"] = 8 * weight_bytes / totals["quantised_weights"]
            totals["bits_per_parameter"] = 8 * outcome.data_bytes / totals["parameters"]
            totals |= {"file_bytes": outcome.data_bytes, "plane_bytes": weight_bytes}
        (stage / EXPORT_REPORT).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
