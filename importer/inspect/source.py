"""What a model is, from headers alone: its weights by stored form, and what an import will make of them."""

import math
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dualbinary.checkpoint import (
    MODULE_PARTS,
    quantized_by,
    read_model,
    read_quantization_config,
    rotation_signs_name,
)
from dualbinary.checkpoint.text_part import text_notes
from dualbinary.files.json_objects import read_json_object
from dualbinary.files.model_files import CONFIG_FILE
from dualbinary.metrics.formats import format_words
from importer.readers import open_model

__all__ = ["BYTES", "Inspection", "inspect_source", "rotated_words"]

BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1, "I8": 1, "BOOL": 1}
_PLAIN_NOTE = "an export stores layers whose values lie on an even grid exactly, and fits the others to 4 bits"


@dataclass(frozen=True)
class Kind:
    """All tensors of one stored form.

    Attributes:
        name: the form in its own words.
        tensors, weights: how many.
        bits: bits per weight as stored.
        exact: whether an import holds them exactly.
        why: what keeps it from that, empty where nothing does.
    """

    name: str
    tensors: int
    weights: int
    bits: float
    exact: bool
    why: str = ""


@dataclass(frozen=True)
class Inspection:
    """The answer of `inspect_source`.

    Attributes:
        source: what was looked at.
        format: the name of its format.
        model_type: what transformers calls the architecture.
        kinds: of all tensors, the most weights first.
        linear_bits: bits per weight of linear layers and quantized tables as stored.
        all_bits: bits per weight of everything.
        notes: what the reader has to say.
    """

    source: str
    format: str
    model_type: str
    kinds: tuple[Kind, ...]
    linear_bits: float | None
    all_bits: float
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    def lines(self) -> list[str]:
        """A table for people."""
        width = max(len(kind.name) for kind in self.kinds)
        lines = [f"{self.source}: {self.format}, a {self.model_type}"]
        for kind in self.kinds:
            fate = "exact" if kind.exact else f"not exact: {kind.why}"
            size = f"{kind.tensors:5} tensors {kind.weights:15,} weights {kind.bits:7.3f} bits"
            lines.append(f"  {kind.name:<{width}} {size}  {fate}")
        linear = "" if self.linear_bits is None else f"{self.linear_bits:.3f} bits per quantized weight, "
        lines.append(f"  {linear}{self.all_bits:.3f} over all tensors")
        return lines + [f"note: {note}" for note in self.notes]


def inspect_source(source: Path) -> Inspection:
    """What the model at `source` is: of another tool, a checkpoint of ours, or plain; nothing but headers is read.

    Raises InputError as `open_model` does.
    """
    if source.is_dir() and (source / CONFIG_FILE).is_file() and quantized_by(source) is None:
        return _own_or_plain(source)
    model = open_model(source)
    counts = _Counts()
    for weight in (*model.weights.values(), *model.inexact.values()):
        rotation = weight.rotation
        kind = weight.kind if rotation is None else rotated_words(weight.kind, rotation.block_size)
        counts.add(kind, weight.N * weight.K, weight.source_bits, getattr(weight, "why", ""), packed=True)
    rotations = [weight.rotation for weight in (*model.weights.values(), *model.inexact.values())]
    counts.sign_bits = 8.0 * sum(len(signs) for signs in {each.key[1] for each in rotations if each is not None})
    for tensor in model.tensors.values():
        counts.add(tensor.dtype.name, math.prod(tensor.shape), 8.0 * tensor.dtype.itemsize)
    return counts.inspection(source, model.format, model.config, model.notes)


def _own_or_plain(source: Path) -> Inspection:
    config, model = read_quantization_config(source), read_model(source)
    stored = model.tensors
    counts = _Counts()
    for name, tensor in stored.items():
        module, _, part = name.rpartition(".")
        size, bits = math.prod(tensor.shape), 8.0 * BYTES.get(tensor.dtype, 1)
        if config is None or part not in MODULE_PARTS:
            counts.add(tensor.dtype, size, bits)
        elif part == "planes":
            form, (_, rows, row_bytes) = config.format_of(module), tensor.shape
            weights = rows * row_bytes * 8
            scales = stored[f"{module}.scales"]
            total = size * bits + math.prod(scales.shape) * 8.0 * BYTES.get(scales.dtype, 1)
            words, block_size = format_words(form), config.block_size_of(module)
            if block_size is not None:
                words = rotated_words(words, block_size)
                total += 8.0 * math.prod(stored[rotation_signs_name(module)].shape)
            counts.add(words, weights, total / max(weights, 1), packed=True)
    kind, notes = ("plain", (_PLAIN_NOTE,)) if config is None else ("dualbinary", ())
    return counts.inspection(source, kind, model.config, (*notes, *text_notes(read_json_object(source / CONFIG_FILE))))


def rotated_words(words: str, block_size: int) -> str:
    """A form whose inputs are rotated."""
    return f"{words}, rotated in blocks of {block_size}"


class _Counts:
    """Tensors by what they are: number, weights, bits.

    `sign_bits` are those of signs of rotations that weights share.
    """

    def __init__(self) -> None:
        self.sign_bits = 0.0
        self._kinds: defaultdict[tuple[str, str], list[float]] = defaultdict(lambda: [0, 0, 0.0])
        self._packed = [0, 0.0]

    def add(self, kind: str, weights: int, bits: float, why: str = "", *, packed: bool = False) -> None:
        """Count a tensor of `weights` weights, `bits` each."""
        entry = self._kinds[kind, why]
        entry[0] += 1
        entry[1] += weights
        entry[2] += weights * bits
        if packed:
            self._packed[0] += weights
            self._packed[1] += weights * bits

    def inspection(self, source: Path, kind: str, config: dict[str, Any], notes: tuple[str, ...]) -> Inspection:
        """The answer."""
        kinds = [
            Kind(name, int(tensors), int(weights), bits / max(weights, 1), not why, why)
            for (name, why), (tensors, weights, bits) in self._kinds.items()
        ]
        kinds.sort(key=lambda each: -each.weights)
        weights, bits = self._packed
        everything = sum(each.weights for each in kinds)
        linear = (bits + self.sign_bits) / weights if weights else None
        total = (sum(each.weights * each.bits for each in kinds) + self.sign_bits) / max(everything, 1)
        return Inspection(str(source), kind, str(config.get("model_type")), tuple(kinds), linear, total, notes)
