"""What a model is, from headers alone: its weights by stored form, and what an import will make of them."""

from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from importer.model import LowBitModel

__all__ = ["Inspection", "inspect_model"]

_PLAIN = "as it is"


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
    """The answer of `inspect_model`.

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


def inspect_model(source: Path, model: LowBitModel) -> Inspection:
    """What `model`, opened from `source`, is."""
    counts: defaultdict[tuple[str, bool, str], list[float]] = defaultdict(lambda: [0, 0, 0.0])

    def count(kind: str, weights: int, bits: float, exact: bool, why: str = "") -> None:
        entry = counts[kind, exact, why]
        entry[0] += 1
        entry[1] += weights
        entry[2] += bits

    packed = 0.0, 0
    for weight in (*model.weights.values(), *model.inexact.values()):
        size = weight.N * weight.K
        packed = packed[0] + size * weight.source_bits, packed[1] + size
        why = getattr(weight, "why", "")
        count(weight.kind, size, size * weight.source_bits, not why, why)
    for tensor in model.tensors.values():
        size = 1
        for length in tensor.shape:
            size *= length
        count(f"{tensor.dtype.name}, {_PLAIN}", size, size * 8.0 * tensor.dtype.itemsize, True)
    kinds = [
        Kind(name, int(tensors), int(weights), bits / max(weights, 1), exact, why)
        for (name, exact, why), (tensors, weights, bits) in counts.items()
    ]
    kinds.sort(key=lambda kind: -kind.weights)
    total = sum(weights for _, weights, _ in counts.values())
    return Inspection(
        str(source),
        model.format,
        str(model.config.get("model_type")),
        tuple(kinds),
        packed[0] / packed[1] if packed[1] else None,
        sum(bits for _, _, bits in counts.values()) / max(total, 1),
        model.notes,
    )
