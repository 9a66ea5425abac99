"""A low-bit model as a checkpoint: planes for its weights, everything else as it is."""

import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dualbinary import InputError
from dualbinary.checkpoint import (
    QuantizationConfig,
    order_name,
    planes_name,
    rotation_signs_name,
    scales_name,
    write_checkpoint,
)
from dualbinary.contract.weight import PlaneFormat
from dualbinary.fitting.closed_form import fit
from dualbinary.fitting.default_form import DEFAULT_FORM
from importer.model import InexactWeight, LowBitModel
from importer.planes import plane_weight

__all__ = ["ImportResult", "write_model"]

_SHARD_BYTES = 1 << 28  # held at a time, beside one weight
_BLOCK = re.compile(r"\.\d+\.")


@dataclass
class ImportResult:
    """What became of the weights.

    Attributes:
        formats: of each module.
        rounding: by module, the largest relative change of a scale, where a reader rounded any.
        fitted: by module, the relative squared error of a weight that was fitted again.
    """

    formats: dict[str, PlaneFormat] = field(default_factory=dict[str, PlaneFormat])
    rounding: dict[str, float] = field(default_factory=dict[str, float])
    fitted: dict[str, float] = field(default_factory=dict[str, float])


def write_model(
    model: LowBitModel, directory: Path, *, requantize: bool = False, progress: bool = False
) -> ImportResult:
    """Write `model` to the new `directory`, which appears in one step; a weight at a time is in memory.

    With `requantize`, weights whose levels are not even are dequantized and fitted to `DEFAULT_FORM`.
    Raises InputError where they occur and `requantize` is off, where a weight contradicts itself, and where
    `directory` exists.
    """
    _refuse_inexact(model, requantize)
    result = ImportResult()
    write_checkpoint(
        directory,
        model.config,
        lambda: _quantization(model, result),
        _tensors(model, result, progress),
        files=model.files(),
        shard_bytes=_SHARD_BYTES,
    )
    return result


def _tensors(model: LowBitModel, result: ImportResult, progress: bool) -> Iterator[tuple[str, np.ndarray]]:
    total = sum(weight.N * weight.K for weight in (*model.weights.values(), *model.inexact.values()))
    shown = {"unit": "weight", "unit_scale": True, "desc": "planes", "file": sys.stderr, "leave": False}
    with tqdm(total=total, disable=not progress, **shown) as bar:
        for module, packed in model.weights.items():
            numbers = packed.read()
            weight = plane_weight(packed, numbers, module)
            result.formats[module] = weight.format
            if numbers.rounding:
                result.rounding[module] = numbers.rounding
            yield planes_name(module), weight.planes
            yield scales_name(module), weight.scales
            if numbers.order is not None:
                yield order_name(module), numbers.order
            if packed.rotation is not None:
                yield rotation_signs_name(module), packed.rotation.signs
            bar.update(packed.N * packed.K)
        for module, inexact in model.inexact.items():
            assert inexact.read is not None
            fitted = fit(inexact.read(), DEFAULT_FORM.for_inputs(inexact.K), name=module)
            result.formats[module] = fitted.weight.format
            result.fitted[module] = fitted.relative_error
            yield planes_name(module), fitted.weight.planes
            yield scales_name(module), fitted.weight.scales
            if inexact.rotation is not None:
                yield rotation_signs_name(module), inexact.rotation.signs
            bar.update(inexact.N * inexact.K)
    for name, tensor in model.tensors.items():
        yield name, tensor.read()


def _quantization(model: LowBitModel, result: ImportResult) -> QuantizationConfig | None:
    """The block that says the formats; the one of most weights is the default. None where all tensors are plain."""
    if not result.formats:
        return None
    sizes: Counter[PlaneFormat] = Counter()
    plain = {module: _without_type(form) for module, form in result.formats.items()}
    block_sizes: dict[str, int] = {}
    for module, form in plain.items():
        weight = model.weights.get(module) or model.inexact[module]
        sizes[form] += weight.N * weight.K
        if weight.rotation is not None:
            block_sizes[module] = weight.rotation.block_size
    kept = tuple(
        name.removesuffix(".weight")
        for name, tensor in model.tensors.items()
        if name.endswith(".weight") and len(tensor.shape) == 2
    )
    # Outside of the decoder blocks are vocabulary tables, which the block names always.
    tables = {module: form for module, form in plain.items() if not _BLOCK.search(module)}
    layers = {module: form for module, form in plain.items() if module not in tables}
    default = sizes.most_common(1)[0][0]
    return QuantizationConfig.of_formats("imported", default, layers, kept, tables, block_sizes)


def _without_type(form: PlaneFormat) -> PlaneFormat:
    """The form without the type of its scales, which a module says itself."""
    return replace(form, scale_dtype=np.dtype(np.float16))


def _refuse_inexact(model: LowBitModel, requantize: bool) -> None:
    for module, weight in model.inexact.items():
        if not requantize or weight.read is None:
            raise InputError(_inexact_sentence(module, weight, len(model.inexact)))


def _inexact_sentence(module: str, weight: InexactWeight, count: int) -> str:
    many = f" ({count} such weights)" if count > 1 else ""
    way = "give a full-precision model" if weight.read is None else "--requantize fits it to four even bits"
    return f"{module}: {weight.kind} cannot be stored exactly, as {weight.why}{many}; {way}"
