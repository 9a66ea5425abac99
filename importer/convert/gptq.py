"""A model as a directory of GPTQ, version 2: integers packed along the inputs, zero points as they are.

    qweight  int32 [K·b/32, N]     scales  float16 [groups, N]     w[n,k] = scales[g,n] · (q[k,n] - zero[g,n])
    qzeros   int32 [groups, N·b/32]                    g_idx   int32 [K]: the group g of each input

The width b is 2, 3, 4 or 8 bits, the smallest that holds a weight's numbers; where modules differ, `dynamic` says it.
Layers without planes, embeddings and heads stay plain numbers.

Source: GPTQModel 7.7.0, gptqmodel/quantization/config.py, gptqmodel/nn_modules/qlinear.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dualbinary import InputError
from dualbinary.checkpoint import write_checkpoint
from dualbinary.files.model_files import GENERATION_CONFIG, TOKENIZER_CONFIG, TOKENIZER_FILES
from dualbinary.metrics.formats import format_words
from importer.convert.levels import ROUNDING, EvenLevels, even_levels, float_type, half_rounded
from importer.convert.outcome import Outcome
from importer.convert.own_model import OwnModel, OwnWeight, parts_of
from importer.modules import Modules, configuration, modules_of
from importer.readers.words import pack_dense

__all__ = ["write_gptq"]

Progress = Callable[[int], None]
"""Called with how many weights are done."""

_WIDTHS = (2, 3, 4, 8)
_PACKED_TOGETHER = 32  # values of K and of N that are whole words at every width


@dataclass(frozen=True)
class _Form:
    """How a module is written: width, group size (-1 for a row), and whether all zero points are 2^(b-1)."""

    bits: int
    group_size: int
    symmetric: bool


def write_gptq(model: OwnModel, directory: Path, *, progress: Progress) -> Outcome:
    """Write `model` to the new `directory`, which appears in one step.

    Raises InputError, before anything is written, where the levels of a layer are no whole numbers of steps from a zero
    point, or its sizes are no whole words.
    """
    modules = modules_of(configuration(model.config, model.directory), model.directory)
    outcome = Outcome("gptq_v2")
    forms: dict[str, _Form] = {}
    for module, weight in model.weights.items():
        if module in modules.tables:
            progress(weight.N * weight.K)
            continue
        forms[module], change = _form(module, weight, modules, progress)
        outcome.count(f"{forms[module].bits} bits")
        if change:
            outcome.rounding[module] = change
    if not forms:
        raise InputError(f"{model.path}: no layer is quantized, so there is nothing that GPTQ would say")
    names = [*TOKENIZER_FILES, TOKENIZER_CONFIG, GENERATION_CONFIG]
    files: dict[str, str | Path] = {n: model.directory / n for n in names if (model.directory / n).is_file()}
    config = model.config | {"quantization_config": _block(forms, modules)}
    write_checkpoint(directory, config, lambda: None, _tensors(model, modules, forms, outcome, progress), files=files)
    return outcome


def _form(module: str, weight: OwnWeight, modules: Modules, progress: Progress) -> tuple[_Form, float]:
    """How a layer is written, and the largest relative change of a scale."""
    stored = weight.read()
    if weight.K % _PACKED_TOGETHER or weight.N % _PACKED_TOGETHER or module in modules.transposed:
        raise InputError(
            f"{module}: {weight.N} outputs of {weight.K} inputs{' of a Conv1D' if module in modules.transposed else ''}"
            "; GPTQ packs linear layers of multiples of 32; keep the layer in full precision"
        )
    size = stored.format.group_size if stored.format.group_size < weight.K else -1
    most, change, zeros = 0, 0.0, set[int]()
    for part in parts_of(stored):
        levels = even_levels(part)
        if levels is None or levels.zero is None or levels.zero.min(initial=0) < 0:
            why = "they are not evenly spaced" if levels is None else "its offsets are no whole numbers of steps"
            why = "a zero point is below its numbers" if levels is not None and levels.zero is not None else why
            raise InputError(
                f"{module}: {format_words(stored.format)}, and GPTQ holds only levels s·(q - z) with a whole z; {why}; "
                "train it with even levels and a zero, or give OUT.gguf, which holds offsets at 4 and 5 bits"
            )
        most = max(most, int(levels.q.max(initial=0)) * levels.parts, int(levels.zero.max(initial=0)))
        change = max(change, half_rounded(levels.part)[1])
        zeros.update(np.unique(levels.zero).tolist())
        progress(part.N * part.K)
    bits = next((bits for bits in _WIDTHS if most < 1 << bits), None)
    if bits is None:
        raise InputError(f"{module}: numbers up to {most}; GPTQ holds up to 8 bits; train it with fewer planes")
    if change > ROUNDING:
        raise InputError(f"{module}: a scale is beyond float16, which GPTQ stores; give OUT.gguf with --dequantize")
    return _Form(bits, size, zeros == {1 << (bits - 1)}), change


def _block(forms: dict[str, _Form], modules: Modules) -> dict[str, Any]:
    """quantization_config: the form of most modules, and the others by their names."""
    common = Counter(forms.values()).most_common(1)[0][0]
    dynamic: dict[str, dict[str, Any]] = {}
    for module in modules.linears:
        name = f"^{re.escape(module)}$"
        if module not in forms:
            dynamic[f"-:{name}"] = {}
        elif (form := forms[module]) != common:
            dynamic[f"+:{name}"] = {"bits": form.bits, "group_size": form.group_size, "sym": form.symmetric}
    block = {
        "quant_method": "gptq",
        "checkpoint_format": "gptq_v2",
        "bits": common.bits,
        "group_size": common.group_size,
        "sym": common.symmetric,
        "desc_act": False,
        "lm_head": False,
        "pack_dtype": "int32",
    }
    return block | ({"dynamic": dynamic} if dynamic else {})


def _tensors(
    model: OwnModel, modules: Modules, forms: dict[str, _Form], outcome: Outcome, progress: Progress
) -> Iterator[tuple[str, np.ndarray]]:
    for module, weight in model.weights.items():
        if module in forms:
            for name, array in _packed(weight, forms[module]).items():
                yield f"{module}.{name}", array
        else:
            yield f"{module}.weight", _table(module, weight, outcome)
        progress(weight.N * weight.K)
    for name, tensor in model.tensors.items():
        yield name, tensor.read()


def _packed(weight: OwnWeight, form: _Form) -> dict[str, np.ndarray]:
    """The tensors of a layer."""
    order = weight.read_order()
    place = np.arange(weight.K) if order is None else np.argsort(order)  # column of each input
    qweight, qzeros, scales = [], [], []
    for part in parts_of(weight.read()):
        levels = even_levels(part)
        assert levels is not None and levels.zero is not None
        qweight.append(pack_dense(_numbers(levels)[:, place], form.bits))
        qzeros.append(levels.zero)
        scales.append(half_rounded(levels.part)[0])
    size = weight.K if form.group_size == -1 else form.group_size
    return {
        "qweight": np.concatenate(qweight).T,
        "qzeros": pack_dense(np.concatenate(qzeros).T, form.bits),
        "scales": np.concatenate(scales).T,
        "g_idx": (place // size).astype(np.int32),
    }


def _numbers(levels: EvenLevels) -> npt.NDArray[np.int16]:
    return levels.q * np.int16(levels.parts)


def _table(module: str, weight: OwnWeight, outcome: Outcome) -> np.ndarray:
    """A vocabulary table as float16, rounded once, or as float32 where that would change one by more than 2^-11."""
    stored = weight.read()
    dtype, outcome.plain[module] = float_type(part.dequantize() for part in parts_of(stored))
    return np.concatenate([part.dequantize().astype(dtype) for part in parts_of(stored)])
